"""The tables of schemes in `docs/quantized-models.md`, made of the rows of Transformers, vLLM and SGLang.

`python -m tests.quantized.page` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

from devpolicy._core.loading.engines import SGLANG, VLLM
from devpolicy._core.loading.quantization import Condition, SchemeSupport
from devpolicy._core.loading.support import TRANSFORMERS

PAGE = Path(__file__).parents[2] / "docs" / "quantized-models.md"
_STORED_AS = {
    "compressed": "compressed-tensors: int4 and int8 (`pack-quantized`), int8 with int8 inputs, NVFP4",
    "compressed-fp8": "compressed-tensors: fp8 by tensor, channel or blocks",
    "modelopt-fp8": "ModelOpt: FP8",
    "modelopt-nvfp4": "ModelOpt: NVFP4",
    "fp8": "fp8 by tensor or in blocks of 128",
    "mxfp4": "mxfp4 (gpt-oss)",
    "gptq": "GPTQ, symmetric, 4 or 8 bits",
    "awq": "AWQ, 4 bits",
}


def schemes_table() -> str:
    """Return the table: schemes that Transformers treats alike share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, support in TRANSFORMERS.items():
        rows.setdefault(_cells(support), []).append(f"`{name}`")
    lines = [
        "| scheme | kept on | else | kept beside accelerators on | made on load | needs |",
        "|---|---|---|---|---|---|",
        *(f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in rows.items()),
    ]
    return "\n".join(lines)


def engines_table() -> str:
    """Return the table of the schemes that engines keep packed, with the least card of each."""
    lines = ["| stored as | vLLM, on | SGLang, on | computes in (vLLM) |", "|---|---|---|---|"]
    for name, row in VLLM.items():
        dtypes = ", ".join(f"`{dtype}`" for dtype in sorted(row.dtypes))
        lines.append(f"| {_STORED_AS[name]} | {_kept(row.kept)} | {_kept(SGLANG[name].kept)} | {dtypes} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return the page with the tables of today."""
    for name, table in (("schemes", schemes_table()), ("engines", engines_table())):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return page


def _cells(support: SchemeSupport) -> tuple[str, ...]:
    kept = _kept(support.kept)
    recorded = support.kept.recorded if support.kept is not None else ()
    one = "" if support.several else ", on one device"
    beside = " and ".join(sorted(support.beside)) or "nothing"
    needs = ", ".join(f"`{package}`" for package in (*recorded, *support.packages))
    stored = support.stored
    return (
        f"{kept}{one}",
        support.otherwise if stored else "not stored",
        beside if stored else "-",
        _made(support),
        needs,
    )


def _made(support: SchemeSupport) -> str:
    if not support.beside_made:
        return "yes" if support.made else "no"
    return f"yes; parts on {' and '.join(sorted(support.beside_made))} stay as they are"


def _kept(condition: Condition | None) -> str:
    if condition is None:
        return "nothing"
    if not condition.capability:
        return "every device"
    least = [(kind, pair) for kind, pair in condition.capability.items()]
    return ", ".join(f"`{kind}` {pair[0]}.{pair[1]}" if pair else f"`{kind}`" for kind, pair in least)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
