"""Where modules are in one plan and in another.

Owns the comparison of two plans of one model, module by module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan

Where = tuple[str, str] | None
"""Where a module is kept and where it runs; `None` for one that is in several places."""


def plan_diff(before: Plan, now: Plan) -> dict[str, tuple[Where, Where]]:
    """Return the modules whose place changed, with the old and the new one."""
    paths = dict.fromkeys([*now.placements, *before.placements])
    changes = {path: (where(before, path), where(now, path)) for path in paths}
    return {path: (was, is_) for path, (was, is_) in changes.items() if was != is_}


def where(plan: Plan, path: str) -> Where:
    """Return where a module is: also one that is part of a unit here, or several units that go together."""
    places = {(str(unit.device), str(unit.runs_on)) for unit in plan.placements.below(path).values()}
    return next(iter(places)) if len(places) == 1 else None


def format_place(place: Where) -> str:
    """Return a place as text."""
    if place is None:
        return "no one place"
    device, runs_on = place
    return device if device == runs_on else f"{device} (executes on {runs_on})"


def other_changes(before: Plan, now: Plan) -> str:
    """Return what differs of two plans where no module moved, empty where nothing does that a consumer is given."""
    if before.digest == now.digest:
        return ""
    pairs = [
        ("component", before.component, now.component),
        ("target", before.target, now.target),
        ("dtype", before.loading.dtype, now.loading.dtype),
        ("offload folder", before.loading.offload_folder, now.loading.offload_folder),
    ]
    was, is_ = dict(before.loading.asked), dict(now.loading.asked)
    pairs += [(key, was.get(key), is_.get(key)) for key in {**was, **is_}]
    changed = [f"{what} `{old}` -> `{new}`" for what, old, new in pairs if old != new]
    return ", ".join(changed) or "the device map is written otherwise"
