"""A plan as a picture: one row for each device, with what its memory holds and which part of the model is there.

Owns the SVG. A row has a bar of the device's memory, in parts, and below it a track that shows the model from its first
unit to its last by bytes: filled where the device stores it, outlined where the device executes what is stored
elsewhere. The SVG is one text without identifiers, scripts and links, so that several may be in one page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.sizes import GIB, format_size
from devpolicy._core.text import markup, visible
from devpolicy._core.views.collapse_ranges import collapse_ranges
from devpolicy._core.views.colors import DARK, LIGHT, Palette
from devpolicy._core.views.parts import LABELS, sizes_of

if TYPE_CHECKING:
    from devpolicy._core.placement.ledger import Budget
    from devpolicy._core.placement.plan import Plan

WIDTH = 640
_ROW, _ROW_OF_DISK, _HEAD, _LEGEND_LINE = 64, 46, 26, 18
_PER_CHARACTER = 6.3
"""About how wide a character is: text is cut by it, because an SVG wraps nothing."""
_PER_LETTER = 5.8
"""The same for prose, which has more narrow letters."""
_CLASSES = {
    "weights": "dp-w", "kv_cache": "dp-k", "activations": "dp-a", "streaming": "dp-s", "loading": "dp-l",
    "used_by_others": "dp-o", "headroom": "dp-h",
}  # fmt: skip


class Titled(NamedTuple):
    """A plan and the line above its picture; empty for none."""

    title: str
    plan: Plan
    names: Mapping[str, str] = MappingProxyType({})
    """What its devices are."""


def style(palette: Palette) -> str:
    """Return the rules for a picture, in the colours of a palette."""
    fills = "".join(f".dp .{name}{{fill:{palette[part]}}}" for part, name in _CLASSES.items())
    return (
        f".dp text{{font:11px system-ui,sans-serif;fill:{palette['ink']};font-variant-numeric:tabular-nums}}"
        f".dp .dp-t{{font-weight:600;font-size:13px}}.dp .dp-b{{font-weight:600}}.dp .dp-e{{text-anchor:end}}"
        f".dp .dp-m{{fill:{palette['muted']}}}"
        f".dp .dp-f{{fill:none;stroke:{palette['line']}}}"
        f".dp .dp-x{{fill:none;stroke:{palette['streaming']};stroke-dasharray:3 2}}{fills}"
    )


VARIABLES: Palette = {role: f"var(--{role.replace('_', '-')})" for role in LIGHT}
"""For pictures in a page, which sets the colours."""


def picture(plans: Sequence[Titled], *, width: int = WIDTH, theme: Palette | None = None) -> str:
    """Return plans as one SVG file, each below the other.

    Without a `theme` the reader's light or dark one is taken.
    """
    height, drawn = 12, []
    seen: set[str] = set()
    for one in plans:
        body, tall = rows(one.plan, one.names, width=width)
        title = f'<text class="dp-t" y="12">{_text(one.title, width / 7.4)}</text>' if one.title else ""
        head = _HEAD if title else 0
        drawn.append(f'<g transform="translate(12 {height})">{title}<g transform="translate(0 {head})">{body}</g></g>')
        height += head + tall
        seen |= {part for name, budget in one.plan.ledger.items() for part, size in _drawn(name, budget) if size}
    keys, tall = _legend(seen, any(_is_moved(one.plan) for one in plans), width)
    drawn.append(f'<g transform="translate(12 {height})">{keys}</g>')
    height += tall + 8
    whole = width + 24
    colors = theme or LIGHT
    rules = style(colors) + f".dp .dp-p{{fill:{colors['page']}}}"
    if theme is None:
        rules += f"@media(prefers-color-scheme:dark){{{style(DARK)}.dp .dp-p{{fill:{DARK['page']}}}}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dp" role="img" aria-label="{_told(plans)}" '
        f'width="{whole}" height="{height}" viewBox="0 0 {whole} {height}"><style>{rules}</style>'
        f'<rect class="dp-p" width="{whole}" height="{height}"/>{"".join(drawn)}</svg>\n'
    )


def rows(plan: Plan, names: Mapping[str, str], *, width: int) -> tuple[str, int]:
    """Return the rows of one plan as SVG elements, and their height."""
    starts, total = _positions(plan)
    drawn, y = [], 0
    for device in plan.ledger:
        row = _row(plan, device, names, starts, width / max(1, total), width)
        drawn.append(f'<g transform="translate(0 {y})">{row}</g>')
        y += _ROW_OF_DISK if device == "disk" else _ROW
    return "".join(drawn), y


def sentence(plan: Plan) -> str:
    """Return what the picture shows in words, for those who do not see it."""
    told = [
        f"{device} stores {format_size(budget.weights)} of weights"
        + ("" if device == "disk" else f" and is {share(budget):.0%} full")
        for device, budget in plan.ledger.items()
    ]
    return "; ".join(told)


def share(budget: Budget) -> float:
    """Return how full a device is: the share of what may be used, headroom left out."""
    room = budget.cap - budget.headroom
    return budget.used / room if room > 0 else 0.0


def _positions(plan: Plan) -> tuple[dict[str, int], int]:
    """Return where each unit begins in the model, in bytes, and the bytes of all."""
    starts, at = {}, 0
    for path, unit in plan.placements.items():
        starts[path] = at
        at += unit.bytes
    return starts, at


def _row(plan: Plan, device: str, names: Mapping[str, str], starts: Mapping[str, int], scale: float, width: int) -> str:
    budget = plan.ledger[device]
    room = budget.cap - budget.headroom
    if device == "disk":
        figures = f"{_gib(budget.weights)} GiB"
    else:
        figures = f"{_gib(budget.used)} of {_gib(room)} GiB, {share(budget):.0%}"
    name = _text(names.get(device, ""), (width - 6 * (len(figures) + len(device)) - 24) / _PER_CHARACTER)
    parts = [
        f'<text class="dp-b" y="10">{markup(device)}'
        f'<tspan class="dp-m" font-weight="400" dx="7">{name}</tspan></text>'
        f'<text class="dp-e" x="{width}" y="10">{figures}</text>'
    ]
    if device != "disk":
        parts.append("".join(_bar(device, budget, width)))
        parts.append(f'<path class="dp-f" d="M.5 15.5h{width - 1}v14H.5z"/>')
    here = [(path, starts[path], unit.bytes) for path, unit in plan.placements.items() if str(unit.device) == device]
    away = [
        (starts[path], unit.bytes)
        for path, unit in plan.placements.items()
        if str(unit.runs_on) == device and str(unit.device) != device
    ]
    moved = any(str(plan.placements[path].runs_on) != device for path, _, _ in here)
    y = 16 if device == "disk" else 34
    parts.append(_track([(at, size) for _, at, size in here], "dp-s" if moved else "dp-w", scale, y))
    parts.append(_track(away, "dp-x", scale, y))
    units = _modules([path for path, _, _ in here], (width - 4) / _PER_CHARACTER)
    if units:
        parts.append(f'<text class="dp-m" y="{y + 18}">{markup(units)}</text>')
    return "".join(parts)


def _drawn(device: str, budget: Budget) -> Iterator[tuple[str, int]]:
    """Yield the parts of a budget that are drawn as areas; what is free is what they leave."""
    if device != "disk":
        yield from ((part, size) for part, size in sizes_of(budget).items() if part != "free")


def _bar(device: str, budget: Budget, width: int) -> Iterator[str]:
    total = max(1, sum(sizes_of(budget).values()))
    at = 0.0
    for part, size in _drawn(device, budget):
        wide = max(1.0, (width - 2) * size / total) if size else 0.0
        if wide:
            yield f'<path class="{_CLASSES[part]}" d="M{_number(at + 1)} 16h{_number(wide)}v13h-{_number(wide)}z"/>'
        at += wide


def _track(pieces: Sequence[tuple[int, int]], name: str, scale: float, y: int) -> str:
    """Return pieces of the model as one path, those that touch as one."""
    runs: list[list[int]] = []
    for at, size in pieces:
        if runs and runs[-1][1] == at:
            runs[-1][1] = at + size
        else:
            runs.append([at, at + size])
    boxes = [(start * scale, max(1.0, (end - start) * scale)) for start, end in runs]
    drawn = "".join(f"M{_number(x)} {y}h{_number(wide)}v5h-{_number(wide)}z" for x, wide in boxes)
    return f'<path class="{name}" d="{drawn}"/>' if drawn else ""


def _modules(paths: Sequence[str], most: float) -> str:
    """Return the modules in as many characters, the rest of them counted."""
    patterns = [row.pattern or "the whole model" for row in collapse_ranges((path, None) for path in paths)]
    for number in range(len(patterns), 0, -1):
        rest = len(patterns) - number
        told = visible(", ".join(patterns[:number])) + (f" and {rest} more" if rest else "")
        if len(told) <= most:
            return told
    return f"{len(paths):,} modules" if patterns else ""


def _legend(seen: set[str], moved: bool, width: int) -> tuple[str, int]:
    entries = [(_CLASSES[part], LABELS[part]) for part in _CLASSES if part in seen]
    x, y, drawn = 0.0, 0, []
    for name, label in entries:
        wide = 16 + len(label) * _PER_CHARACTER + 14
        if x + wide > width:
            x, y = 0.0, y + _LEGEND_LINE
        drawn.append(
            f'<rect class="{name}" x="{_number(x)}" y="{y}" width="10" height="10"/>'
            f'<text class="dp-m" x="{_number(x + 15)}" y="{y + 9}">{label}</text>'
        )
        x += wide
    y += _LEGEND_LINE
    line = "Thin line: the model from its first module to its last, where it is stored"
    line += "; dashed: only executed here." if moved else "."
    for part in textwrap.wrap(line, int(width / _PER_LETTER)):
        drawn.append(f'<text class="dp-m" y="{y + 9}">{part}</text>')
        y += _LEGEND_LINE
    return "".join(drawn), y


def _is_moved(plan: Plan) -> bool:
    return any(unit.device != unit.runs_on for unit in plan.placements.values())


def _told(plans: Sequence[Titled]) -> str:
    told = (f"{one.title}: {sentence(one.plan)}" if one.title else sentence(one.plan) for one in plans)
    return markup(". ".join(told))


def _text(text: str, most: float) -> str:
    """Return text for the SVG, cut to about as many characters."""
    text = visible(text)
    return markup(text if len(text) <= most else f"{text[: max(0, int(most) - 1)]}…")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB // 20 or not size else f"{size / GIB:.2f}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
