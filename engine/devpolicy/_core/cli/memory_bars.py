"""The ledger of a plan: a bar and a row of figures for each device.

Owns the drawing of a ledger. Each part has a character of its own, so that the bars can be read without colours too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.cli.table import INDENT, UNBOUNDED, table
from devpolicy._core.sizes import GIB
from devpolicy._core.views.parts import LABELS

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line, Output, Span
    from devpolicy._core.placement.ledger import Budget
    from devpolicy._core.views.parts import Sizes


class Part(NamedTuple):
    """A part of a budget as it is drawn: its name, its character, also where only ASCII can be shown, its style."""

    label: str
    full: str
    simple: str
    style: str


_SIGNS = {
    "weights": ("█", "#", "weights"),
    "kv_cache": ("▓", "k", "kv_cache"),
    "activations": ("▒", "a", "activations"),
    "streaming": ("░", "s", "streaming"),
    "loading": ("▚", "l", "loading"),
    "used_by_others": ("▞", "o", "others"),
    "headroom": ("·", "-", "headroom"),
    "free": (" ", " ", "free"),
}
PARTS = {key: Part(label, *_SIGNS[key]) for key, label in LABELS.items()}
"""The parts of one plan's budget."""

BAR = 40
_SHORTEST_BAR = 10
_SHORTEST_NAME = 12


def cells(sizes: Sizes, width: int = BAR) -> dict[str, int]:
    """Return how many of `width` cells each part takes: `width` in total, at least one for each that is not empty.

    Of more parts than there are cells the largest ones are drawn, a cell each.
    """
    total = sum(sizes.values())
    if not total:
        return {**dict.fromkeys(sizes, 0), "free": width}
    drawn = sorted((part for part in sizes if sizes[part]), key=lambda part: -sizes[part])[:width]
    shown = {part: max(1, round(sizes[part] * width / total)) if part in drawn else 0 for part in sizes}
    # Ends: there are at most as many parts as cells, so while there is one cell too many some part has two.
    while (over := width - sum(shown.values())) != 0:
        largest = max(shown, key=lambda part: shown[part])
        shown[largest] += max(over, 1 - shown[largest])
    return shown


def bars(devices: Mapping[str, Sizes], parts: Mapping[str, Part], names: Mapping[str, str], out: Output) -> list[Line]:
    """Return a bar for each device but the disk, whose weights are read where they are, and the legend.

    `names` are the names of the devices' hardware. Screen readers get no bars: the figures hold the same facts.
    """
    if out.width >= UNBOUNDED:
        return []
    unicode = out.can_show("".join(part.full for part in parts.values()) + "│")
    edge = "│" if unicode else "|"
    glyphs = {key: part.full if unicode else part.simple for key, part in parts.items()}
    wide = max((len(device) for device in devices), default=0)
    length = max(_SHORTEST_BAR, min(BAR, out.width - len(INDENT) - wide - 4))
    drawn = {device: cells(sizes, length) for device, sizes in devices.items() if device != "disk"}
    lines: list[Line] = []
    for device, shown in drawn.items():
        room = max(0, out.width - len(INDENT) - wide - length - 6)
        spans: list[Span] = [(INDENT, ""), (device.ljust(wide), "device"), (f"  {edge}", "dim")]
        spans += [(glyphs[key] * count, parts[key].style) for key, count in shown.items() if count]
        name = names.get(device, "")
        if len(name) > room:
            name = f"{name[: room - 1]}…" if room >= _SHORTEST_NAME and out.can_show("…") else ""
        spans.append((f"{edge}  " if name else edge, "dim"))
        lines.append([*spans, (name, "dim")])
    seen = [key for key in parts if key != "free" and any(shown.get(key) for shown in drawn.values())]
    entries = [((glyphs[key], parts[key].style), f" {parts[key].label}") for key in seen]
    return [*lines, *_legend(entries, len(INDENT) + wide + 3, out.width)] if drawn else []


def _legend(entries: Sequence[tuple[Span, str]], indent: int, width: int) -> list[Line]:
    """Return the legend in as many lines as it needs."""
    lines: list[list[Span]] = []
    at = width
    for glyph, label in entries:
        wide = len(glyph[0]) + len(label)
        if at + 2 + wide > width:
            lines.append([(" " * indent, "")])
            at = indent - 2
        else:
            lines[-1].append(("  ", ""))
        lines[-1] += [glyph, (label, "dim")]
        at += 2 + wide
    return list(lines)


def figures(ledger: Mapping[str, Budget], *, width: int) -> list[Line]:
    """Return the ledger as a table in GiB, without the columns that are nothing everywhere."""
    always = ("weights", "free", "cap")
    columns = [
        part for part in (*PARTS, "cap") if part in always or any(getattr(budget, part) for budget in ledger.values())
    ]
    head = ["in GiB", *(PARTS[part].label if part in PARTS else part for part in columns)]
    rows = [
        [device, *(gib(getattr(budget, part)) if device != "disk" or part != "free" else "" for part in columns)]
        for device, budget in ledger.items()
    ]
    return table(head, rows, width=width, right=range(1, len(head)), styles={0: "device"})


def gib(size: int) -> str:
    """Return bytes in GiB as a table shows them."""
    if not size:
        return "-"
    return "<0.01" if size < GIB // 200 else f"{size / GIB:.2f}"
