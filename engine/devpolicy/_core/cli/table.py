"""Tables of text that fit a screen.

Owns columns and their widths. What a user would copy is never cut: a first cell that is too wide gets a line of its
own, a last column of prose that does not fit goes below, and columns that do not fit are a second table below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line, Span

INDENT = "  "
UNBOUNDED = 1_000_000
"""The width for people who hear a screen: nothing is wrapped or set in columns, and each cell has its column's name."""
_GAP, _NARROW_GAP = 2, 1
_LEAST_PROSE = 20


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    right: Sequence[int] = (),
    prose: bool = False,
    styles: Mapping[int, str] | None = None,
) -> list[Line]:
    """Return a table's lines. `right` are columns set to the right, `styles` those with a style.

    With `prose` the last column goes below its row, wrapped, where some of it would not fit beside.
    """
    if width >= UNBOUNDED:
        return [INDENT + _spoken(head, row) for row in rows]
    styles = styles or {}
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    gap = _GAP
    room = width - len(INDENT) - gap * (len(head) - 1)
    below = prose and sum(widths) > room
    if below:
        widths[-1] = 0
        head = [*head[:-1], ""]
    narrow = width - len(INDENT) - _NARROW_GAP * (len(head) - 1)
    if len(head[0]) + sum(widths[1:]) > room or room < sum(widths) <= narrow:
        gap, room = _NARROW_GAP, narrow
    if len(head) > 2 and not below and len(head[0]) + sum(widths[1:]) > room:
        return _divided(head, rows, width=width, right=right, styles=styles)
    if sum(widths) > room:
        widths[0] = max(len(head[0]), room - sum(widths[1:]))
    lines: list[Line] = [_line(head, widths, right, dict.fromkeys(range(len(head)), "dim"), gap)]
    for row in rows:
        first, *others = row
        if len(first) > widths[0]:
            lines.append([(INDENT, ""), (first, styles.get(0, ""))])
            first = ""
        last = others.pop() if below else ""
        lines.append(_line([first, *others], widths, right, styles, gap))
        wrapped = textwrap.wrap(last, max(_LEAST_PROSE, width - 2 * len(INDENT)), break_on_hyphens=False)
        lines += [[(2 * INDENT, ""), (text, styles.get(len(head) - 1, ""))] for text in wrapped]
    return lines


def _spoken(head: Sequence[str], row: Sequence[str]) -> str:
    """Return a row as a sentence: its first cell, then the others by the names of their columns."""
    first, *others = row
    first += f", {head[0]}" if head[0].startswith("in ") else ""  # the unit of all figures
    told = [f"{name} {cell.strip()}".strip() for name, cell in zip(head[1:], others, strict=False) if cell.strip(" -")]
    return f"{first}: {', '.join(told)}" if told else first


def _divided(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    right: Sequence[int],
    styles: Mapping[int, str],
) -> list[Line]:
    """Return a table in two, one below the other, each with the first column."""
    half = len(head) // 2
    lines: list[Line] = []
    for columns in ([0, *range(1, half + 1)], [0, *range(half + 1, len(head))]):
        lines += table(
            [head[at] for at in columns],
            [[row[at] for at in columns] for row in rows],
            width=width,
            right=[place for place, at in enumerate(columns) if at in right],
            styles={place: styles[at] for place, at in enumerate(columns) if at in styles},
        )
    return lines


def _line(
    row: Sequence[str], widths: Sequence[int], right: Sequence[int], styles: Mapping[int, str], space: int
) -> list[Span]:
    spans: list[Span] = [(INDENT, "")]
    last = max((at for at, cell in enumerate(row) if cell), default=0)
    for at in range(last + 1):
        cell, wide = row[at], widths[at]
        gap = "" if at == 0 else " " * space
        if at in right:
            spans += [(gap + " " * (wide - len(cell)), ""), (cell, styles.get(at, ""))]
        else:
            padding = "" if at == last else " " * (wide - len(cell))
            spans += [(gap, ""), (cell, styles.get(at, "")), (padding, "")]
    return spans


def facts(pairs: Sequence[tuple[str, str]], *, width: int) -> list[Line]:
    """Return labelled values, one below the other; a long value goes on below itself."""
    if width >= UNBOUNDED:
        return [[(f"{name.strip()}: " if name.strip() else INDENT, "strong"), (value, "")] for name, value in pairs]
    wide = max(len(name) for name, _ in pairs)
    room = max(_LEAST_PROSE, width - wide - _GAP)
    lines: list[Line] = []
    for name, value in pairs:
        first, *more = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append([(name.ljust(wide), "strong"), (" " * _GAP + first, "")])
        lines += [" " * (wide + _GAP) + line for line in more]
    return lines
