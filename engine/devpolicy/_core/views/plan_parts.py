"""What a page shows of one plan: its picture, the keys of pictures, and its reasons.

Owns the HTML of these parts, which the pages of reports are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.text import markup
from devpolicy._core.views.collapse_ranges import collapse_ranges
from devpolicy._core.views.names import device_names
from devpolicy._core.views.parts import LABELS
from devpolicy._core.views.picture import rows, sentence

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan

PICTURE = 400
"""The width of a picture in a page."""
_MOST_REASONS = 12
_KEYS = {"weights": "w", "kv_cache": "k", "activations": "a", "streaming": "s", "loading": "l", "used_by_others": "o"}


def reasons(plan: Plan) -> list[str]:
    """Return what became of each preference, and what decided each module, the first of many."""
    units = plan.placements
    kinds = collapse_ranges(
        (path, (str(unit.device), str(unit.runs_on), unit.rule, unit.reason)) for path, unit in units.items()
    )
    told = [f"{row.pattern or 'the whole model'}: {row.key[3]} (decided by {row.key[2]})" for row in kinds]
    rest = len(told) - _MOST_REASONS
    terms = [f"{term}: {outcome}" for term, outcome in (plan.trace.terms if plan.trace else ())]
    warnings = [f"{one.code}: {one.message}" for one in plan.warnings]
    return [*terms, *warnings, *told[:_MOST_REASONS], *([f"and {rest} more"] if rest > 0 else [])]


def framed(plan: Plan, host: Host) -> str:
    """Return the picture of a plan as an SVG of a page, which holds the rules of its classes."""
    drawn, height = rows(plan, device_names(host), width=PICTURE)
    label = markup(sentence(plan))
    return f'<svg class="dp" role="img" aria-label="{label}" viewBox="0 0 {PICTURE} {height}">{drawn}</svg>'


def legend() -> str:
    """Return the keys of pictures as a list."""
    keys = "".join(
        f'<li><svg class="dp" aria-hidden="true" viewBox="0 0 10 10"><rect class="dp-{key}" width="10" height="10"/>'
        f"</svg>{LABELS[part]}</li>"
        for part, key in (*_KEYS.items(), ("headroom", "h"))
    )
    return f'<ul class="keys">{keys}</ul>'
