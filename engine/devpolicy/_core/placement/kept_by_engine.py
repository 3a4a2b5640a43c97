"""Weights that an engine keeps on the CPU by itself: it is told how many bytes of each device, and chooses which.

Owns the least number of whole gibibytes with which a model fits, the same for all of its devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from devpolicy._core.placement.context import PlacementContext, avoids
from devpolicy._core.placement.ledger import Budget
from devpolicy._core.sizes import GIB

KEPT = "budget"


def may_keep(context: PlacementContext) -> bool:
    """Whether `overflow` allows what the engine does by itself."""
    allowed = any(one.type == "cpu" for one in context.policy.overflow) and not avoids(context.policy, "cpu")
    return allowed and context.link and context.target.abilities.keeps.get("cpu") == KEPT


def with_kept(context: PlacementContext, kept: int) -> PlacementContext:
    """Return a context whose devices have room for so many bytes more, which will not be there."""
    devices = tuple(replace(one, cap=one.cap + kept) for one in context.devices)
    return replace(context, devices=devices, policy=replace(context.policy, overflow=()))


def least_kept(context: PlacementContext, fits: Callable[[int], bool]) -> int | None:
    """Return the fewest whole gibibytes for each device with which a model fits, `None` where no number does."""
    most = max(1, context.cpu.budget // GIB)
    if not fits(most * GIB):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle * GIB) else (middle, high)
    return high * GIB


def without_kept(
    ledger: Mapping[str, Budget], kept: int, context: PlacementContext, members: Mapping[str, int]
) -> dict[str, Budget]:
    """Return a ledger whose devices hold so many bytes less, and the CPU all of them, of each member of a group."""
    found, away = dict[str, Budget](), 0
    for device, budget in ledger.items():
        gone = min(kept, budget.weights)
        away += gone * members.get(device, 1)
        load = max(0, budget.load - gone)
        found[device] = replace(budget, weights=budget.weights - gone, load=load, cap=budget.cap - kept)
    cpu = context.cpu
    return {
        **found,
        "cpu": Budget(weights=away, load=away, used_by_others=cpu.used_by_others, headroom=cpu.headroom, cap=cpu.cap),
    }
