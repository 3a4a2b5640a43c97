"""The table of schemes in `docs/quantized-models.md`, made of the rows of Transformers.

`python -m tests.quantized.page` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

from devpolicy._core.loading.quantization import Condition, SchemeSupport
from devpolicy._core.loading.support import TRANSFORMERS

PAGE = Path(__file__).parents[2] / "docs" / "quantized-models.md"
BEGIN, END = "<!-- schemes -->", "<!-- /schemes -->"


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


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{schemes_table()}\n\n{END}{rest.partition(END)[2]}"


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
