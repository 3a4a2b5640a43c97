"""Weights that an engine keeps on the CPU by itself: it is told how many bytes of each device, or how many experts.

Owns the least with which a model fits: whole gibibytes, the same for all of its devices, or experts of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.context import PlacementContext, avoids
from devpolicy._core.placement.ledger import Budget
from devpolicy._core.sizes import GIB

KEPT = ("budget", "experts")


def may_keep(context: PlacementContext) -> bool:
    """Whether `overflow` allows what the engine does by itself."""
    allowed = any(one.type == "cpu" for one in context.policy.overflow) and not avoids(context.policy, "cpu")
    return allowed and context.link and context.target.abilities.keeps.get("cpu") in KEPT


def with_kept(context: PlacementContext, kept: int) -> PlacementContext:
    """Return a context whose devices have room for so many bytes more, which will not be there."""
    devices = tuple(replace(one, cap=one.cap + kept) for one in context.devices)
    policy = replace(context.policy, overflow=())
    # Experts are counted for all layers alike, so one device has all layers.
    alone = context.target.abilities.keeps.get("cpu") == "experts"
    return replace(context, devices=devices, policy=replace(policy, split="never") if alone else policy)


def steps_of(context: PlacementContext) -> tuple[int, int]:
    """Return by how many bytes the engine is told what it keeps, and how often at most."""
    if context.target.abilities.keeps.get("cpu") != "experts":
        return GIB, max(1, context.cpu.budget // GIB)
    expert, count = one_expert(context.tree, context.policy.workload.dtype)
    return expert, min(count - 1, context.cpu.budget // max(1, expert))


def one_expert(tree: ModelTree, dtype: str | None) -> tuple[int, int]:
    """Return the bytes of one expert in all layers together, and how many a layer has: 0 where layers differ."""
    mixtures = [entry for entry in tree.reads if entry.num_experts > 1]
    counts = {entry.num_experts for entry in mixtures}
    if len(counts) != 1:
        return 0, 0
    inside = tuple(f"{entry.module}." for entry in mixtures)
    named = {entry.module for entry in mixtures}
    modules = (one for one in tree.modules if one.path in named or one.path.startswith(inside))
    count = counts.pop()
    return sum(tensor.bytes_as(dtype) for one in modules for tensor in one.tensors) // count, count


def least_kept(context: PlacementContext, fits: Callable[[int], bool]) -> int | None:
    """Return the fewest bytes for each device with which a model fits, `None` where no number does."""
    step, most = steps_of(context)
    if most < 1 or not fits(most * step):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle * step) else (middle, high)
    return high * step


def gpu_experts(context: PlacementContext, kept: int) -> int | None:
    """Return how many experts of each layer are left on the accelerator; `None` where bytes are what is told."""
    if context.target.abilities.keeps.get("cpu") != "experts":
        return None
    expert, count = one_expert(context.tree, context.policy.workload.dtype)
    return count - kept // expert


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
