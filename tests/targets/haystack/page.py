"""The table of `docs/haystack.md`: what each component class takes.

    python -m tests.targets.haystack.page

writes it anew from the rows in the package.
"""

from __future__ import annotations

import re
from pathlib import Path

from devpolicy._core.abilities import target_of
from devpolicy._core.targets.haystack_components.table import ROWS, Takes

PAGE = Path(__file__).parents[3] / "docs" / "haystack.md"
BEGIN, END = "<!-- generated: components -->", "<!-- end -->"
WHERE = {
    "device": "`device`",
    "pipeline": "`device`, beside `{}`",
    "from_pretrained": "`device`, beside `{}`",
    "sentence-transformers": "`device`; a map in `{}`",
    "text-or-map": "`device`, as text; a map in `{}`",
    "fastembed": "`cuda`, `device_ids` in `{}`",
    "provider": "`onnx_execution_provider`; its device in `{}`",
    "llama-cpp": "`n_gpu_layers`, `main_gpu`, `split_mode` in `{}`",
}
LOADING = ("pipeline", "from_pretrained", "sentence-transformers", "text-or-map")


def table() -> str:
    """Return the lines between the markers."""
    lines = ["| class | the device goes to | map | copies | dtype, folder | runs on |", "|---|---|---|---|---|---|"]
    for name, row in ROWS.items():
        if isinstance(row, Takes):
            target = target_of(row.target)
            types = ", ".join(kind for kind in ("cuda", "xpu", "mps", "cpu") if kind in target.abilities.types)
            where = WHERE[row.form].format(row.kwargs)
            copies = "-" if row.pool is None else f"`{row.pool}`"
            yes = {True: "yes", False: "-"}
            cells = (f"`{name}`", where, yes[target.abilities.maps], copies, yes[row.form in LOADING], types)
            lines.append(f"| {' | '.join(cells)} |")
        else:
            lines.append(f"| `{name}` | nowhere: {row.instead} | - | - | - | - |")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return a page with the table as it is now."""
    return re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
