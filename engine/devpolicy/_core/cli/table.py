"""Tables of text that fit a screen.

Owns columns and their widths. What a user would copy is never cut: a first cell that is too wide gets a line of its
own, and a last column of prose that does not fit goes below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.cli.screen import Line, Span

INDENT = "  "
_GAP = 2
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
    styles = styles or {}
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    room = width - len(INDENT) - _GAP * (len(head) - 1)
    below = prose and sum(widths) > room
    if below:
        widths[-1] = 0
        head = [*head[:-1], ""]
    if sum(widths) > room:
        widths[0] = max(len(head[0]), room - sum(widths[1:]))
    lines: list[Line] = [_line(head, widths, right, dict.fromkeys(range(len(head)), "dim"))]
    for row in rows:
        first, *others = row
        if len(first) > widths[0]:
            lines.append([(INDENT, ""), (first, styles.get(0, ""))])
            first = ""
        last = others.pop() if below else ""
        lines.append(_line([first, *others], widths, right, styles))
        told = textwrap.wrap(last, max(_LEAST_PROSE, width - 2 * len(INDENT)), break_on_hyphens=False)
        lines += [[(2 * INDENT, ""), (text, styles.get(len(head) - 1, ""))] for text in told]
    return lines


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int], styles: Mapping[int, str]) -> list[Span]:
    spans: list[Span] = [(INDENT, "")]
    last = max((at for at, cell in enumerate(row) if cell), default=0)
    for at in range(last + 1):
        cell, wide = row[at], widths[at]
        gap = "" if at == 0 else " " * _GAP
        if at in right:
            spans += [(gap + " " * (wide - len(cell)), ""), (cell, styles.get(at, ""))]
        else:
            padding = "" if at == last else " " * (wide - len(cell))
            spans += [(gap, ""), (cell, styles.get(at, "")), (padding, "")]
    return spans


def facts(pairs: Sequence[tuple[str, str]], *, width: int) -> list[Line]:
    """Return labelled values, one below the other; a long value goes on below itself."""
    wide = max(len(name) for name, _ in pairs)
    room = max(_LEAST_PROSE, width - wide - _GAP)
    lines: list[Line] = []
    for name, value in pairs:
        first, *more = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append([(name.ljust(wide), "strong"), (" " * _GAP + first, "")])
        lines += [" " * (wide + _GAP) + line for line in more]
    return lines
