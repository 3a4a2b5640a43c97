"""The table of rooms in `docs/architecture.md`, made of the import table and of the rooms' own docstrings.

`python -m tests.architecture` writes it anew.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_imports import CORE, LEAVES, MAY_IMPORT

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->", "<!-- /rooms -->"
_GROUPS = {
    "leaves": LEAVES,
    "values": (*LEAVES, "loading", "device", "host", "model"),
    "engine": MAY_IMPORT["planning"],
}
_OF_PACKAGES = "The public modules: each name is imported when it is first used."


def rooms_table() -> str:
    """Return the table: each room with the first two sentences about it, and what it may import."""
    lines = ["| room | is | may import |", "|---|---|---|"]
    for room, allowed in MAY_IMPORT.items():
        name = f"`{room}`" + ", its public modules" * (room == "devpolicy")
        lines.append(f"| {name} | {_about(room)} | {_short(allowed)} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{rooms_table()}\n\n{END}{rest.partition(END)[2]}"


def _about(room: str) -> str:
    if room == "devpolicy":
        return _OF_PACKAGES
    file = CORE / f"{room}.py"
    text = ast.get_docstring(ast.parse((file if file.exists() else CORE / room / "__init__.py").read_text("utf-8")))
    first, *more = (text or "").split("\n\n")
    owns = next((part for part in more if part.startswith("Owns")), "")
    sentence = " ".join(owns.split()).partition(". ")[0].rstrip(".")
    return f"{first} {sentence}.".replace("|", "\\|") if sentence else first.replace("|", "\\|")


def _short(allowed: tuple[str, ...]) -> str:
    if len(allowed) > 2 and allowed == LEAVES[: len(allowed)] != LEAVES:
        return "the rooms above it"
    for group, rooms in reversed(_GROUPS.items()):
        if allowed[: len(rooms)] == rooms:
            return ", ".join([group, *(f"`{room}`" for room in allowed[len(rooms) :])])
    return ", ".join(f"`{room}`" for room in allowed) or "nothing"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
