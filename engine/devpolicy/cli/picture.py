"""What each device of a plan is asked to hold, as bars and as figures.

Owns the drawing of a ledger. Each part has a character of its own, so that the picture is read without colours too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from devpolicy.cli.table import INDENT, table
from devpolicy.sizes import GIB

if TYPE_CHECKING:
    from devpolicy.cli.screen import Line, Screen, Span
    from devpolicy.placement.plan import Budget

PARTS = {
    "weights": ("weights", "█", "#"),
    "kv_cache": ("KV cache", "▓", "k"),
    "activations": ("activations", "▒", "a"),
    "streaming": ("streaming", "░", "s"),
    "others": ("others", "▞", "o"),
    "headroom": ("headroom", "·", "-"),
    "free": ("free", " ", " "),
}
"""The parts of a budget: how each is called, and its character, also where only ASCII can be shown."""

BAR = 40


def cells(budget: Budget, width: int = BAR) -> dict[str, int]:
    """Return how many of `width` cells each part takes: `width` in sum, and at least one for what is not nothing."""
    sizes = {part: max(0, getattr(budget, part)) for part in PARTS}
    total = sum(sizes.values())
    if not total:
        return {**dict.fromkeys(PARTS, 0), "free": width}
    shown = {part: max(1, round(size * width / total)) if size else 0 for part, size in sizes.items()}
    largest = max(shown, key=lambda part: shown[part])
    shown[largest] += width - sum(shown.values())
    return shown


def bars(ledger: Mapping[str, Budget], names: Mapping[str, str], screen: Screen) -> list[Line]:
    """Return a bar for each device but the disk, whose weights are read where they are, and the legend."""
    unicode = screen.can_show("".join(full for _, full, _ in PARTS.values()) + "│")
    edge = "│" if unicode else "|"
    glyphs = {part: full if unicode else simple for part, (_, full, simple) in PARTS.items()}
    drawn = {device: cells(budget) for device, budget in ledger.items() if device != "disk"}
    wide = max((len(device) for device in ledger), default=0)
    lines: list[Line] = []
    for device, shown in drawn.items():
        room = screen.width - len(INDENT) - wide - BAR - 6
        spans: list[Span] = [(INDENT, ""), (device.ljust(wide), "device"), (f"  {edge}", "dim")]
        spans += [(glyphs[part] * count, part) for part, count in shown.items() if count]
        spans.append((f"{edge}  " if names.get(device) else edge, "dim"))
        lines.append([*spans, (names.get(device, "")[:room], "dim")])
    seen = [part for part in PARTS if any(shown[part] for shown in drawn.values())]
    legend: list[Span] = [(" " * (len(INDENT) + wide + 3), "")]
    for part in seen:
        if part != "free":
            legend += [(glyphs[part], part), (f" {PARTS[part][0]}  ", "dim")]
    return [*lines, _stripped(legend)] if drawn else []


def _stripped(spans: list[Span]) -> list[Span]:
    text, style = spans[-1]
    return [*spans[:-1], (text.rstrip(), style)]


def figures(ledger: Mapping[str, Budget], *, width: int) -> list[Line]:
    """Return the ledger as a table in GiB, without the columns that are nothing everywhere."""
    always = ("weights", "free", "cap")
    columns = [
        part for part in (*PARTS, "cap") if part in always or any(getattr(budget, part) for budget in ledger.values())
    ]
    head = ["in GiB", *(PARTS[part][0] if part in PARTS else part for part in columns)]
    rows = [
        [device, *(_gib(getattr(budget, part)) if device != "disk" or part != "free" else "" for part in columns)]
        for device, budget in ledger.items()
    ]
    return table(head, rows, width=width, right=range(1, len(head)), styles={0: "device"})


def _gib(size: int) -> str:
    if not size:
        return "-"
    return "<0.01" if size < GIB // 200 else f"{size / GIB:.2f}"
