"""Checks of one outcome, one for each property.

Owns the check of each property of `language.properties.OF_A_PLAN`. No check trusts the planner:
bytes are recomputed, and devices are looked up on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.memory.budgets import accelerator_of
from devpolicy._core.memory.sizing import context_of
from devpolicy._core.review.outcome import Outcome, is_meant
from devpolicy._core.review.recount import KEPT, device_map, misplaced, places_of, tensors
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.language.policy import DeviceSelector
    from devpolicy._core.language.properties import Property
    from devpolicy._core.memory.budgets import DeviceBudget


def violations(wanted: Property, outcome: Outcome) -> Iterator[str]:
    """Yield the violations of one property by an outcome, none if it holds."""
    if wanted.term is not None:
        yield from _never_on(outcome, wanted.term)
    elif wanted.tokens:
        yield from _context(outcome, wanted.tokens)
    else:
        yield from _CHECKS[wanted.name](outcome)


def _always_resolves(outcome: Outcome) -> Iterator[str]:
    if outcome.refusal is not None:
        yield f"it is refused with {outcome.refusal.code}: {outcome.refusal.message}"


def _placed_or_refused(outcome: Outcome) -> Iterator[str]:
    if outcome.refusal is not None:
        if not outcome.refusal.code.startswith(("DP3", "DP4")):
            yield f"it is refused with {outcome.refusal.code}, which no host would help: {outcome.refusal.message}"
        return
    for device in _devices(outcome):
        yield from _usable(outcome, device)
    if outcome.plan is None or outcome.tree is None:
        return
    wrong = misplaced(outcome.tree, device_map(outcome.plan))
    if wrong is not None:
        yield "tensor `{}` has {} places".format(*wrong)


def _devices(outcome: Outcome) -> set[str]:
    """Return every device on which an outcome stores or executes something."""
    if outcome.plan is not None:
        return {*map(str, outcome.plan.placements.devices), *device_map(outcome.plan).values()}
    return set() if outcome.device is None else {outcome.device.to_torch_str()}


def _usable(outcome: Outcome, device: str) -> Iterator[str]:
    if any(is_meant(device, term, outcome.host) for term in outcome.policy.avoid):
        yield f"`{device}` is used, which `avoid` excludes"
    if device in KEPT:
        return
    named = accelerator_of(device, outcome.host)
    if named is None:
        yield f"`{device}` is used, and the host has none"
    elif fault := named.fault or outcome.host.fault(named.type):
        yield f"`{device}` is used, and it does not work: {fault}"


def _within_budget(outcome: Outcome) -> Iterator[str]:
    own = outcome.own
    if own is None:
        return
    totals = dict(own.bytes)
    for part in outcome.before:
        for device, size in part.bytes.items():
            totals[device] = totals.get(device, 0) + size
    used = {device: size for device, size in own.bytes.items() if device in own.budgets}
    for device in used:
        yield from _over(device, totals[device], own.budgets[device], _free(outcome, device))
    yield from _over_the_pool(outcome, totals, own.budgets)
    yield from _over_the_share(outcome, used, own.budgets)


def _over(device: str, total: int, budget: DeviceBudget, free: int) -> Iterator[str]:
    room = budget.cap - budget.headroom
    if total > room:
        yield f"`{device}` is asked for {format_size(total)}, and the policy leaves {format_size(max(0, room))}"
    elif total > free:
        yield f"`{device}` is asked for {format_size(total)}, and {format_size(free)} of it are free"


def _free(outcome: Outcome, device: str) -> int:
    named = accelerator_of(device, outcome.host)
    return outcome.host.free if named is None else named.free


def _over_the_pool(outcome: Outcome, totals: dict[str, int], budgets: Mapping[str, DeviceBudget]) -> Iterator[str]:
    """Integrated accelerators and the CPU share one memory: together they must fit in it."""
    sides = _sides(totals, budgets)
    together = sum(totals[device] for device in sides)
    if sides and together > outcome.host.free:
        named = " and ".join(f"`{side}`" for side in sides)
        yield f"{named} share {format_size(outcome.host.free)}, and are asked for {format_size(together)}"


def _over_the_share(outcome: Outcome, own: dict[str, int], budgets: Mapping[str, DeviceBudget]) -> Iterator[str]:
    """A component takes no more than its `share` of each budget, and of one memory no more than that on all sides."""
    share = outcome.policy.share
    if share is None:
        return
    sides = _sides(own, budgets)
    for device in own:
        size = sum(own[side] for side in sides) if device in sides else own[device]
        room = max(0, budgets[device].cap - budgets[device].headroom)
        if size > share.of(room):
            yield (
                f"`{device}` is asked for {format_size(size)}, and the component's share of {format_size(room)} is "
                f"{format_size(share.of(room))}"
            )


def _sides(devices: Iterable[str], budgets: Mapping[str, DeviceBudget]) -> list[str]:
    """Return the devices that are sides of one memory, where several are."""
    sides = [device for device in devices if device in budgets and (budgets[device].unified or device == "cpu")]
    return sides if len(sides) > 1 else []


def _ties_together(outcome: Outcome) -> Iterator[str]:
    if outcome.plan is None or outcome.tree is None:
        return
    if not outcome.tree.ties:
        return
    places = places_of(outcome.tree, device_map(outcome.plan))
    buffers = {row.name for row in tensors(outcome.tree) if row.tensor.buffer}
    for group in outcome.tree.ties:
        where = {places[name][0] for name in group if name not in buffers}
        if len(where) > 1:
            yield f"tied tensors `{group[0]}` and `{group[1]}` are on {_listed(where)}"


def _blocks_whole(outcome: Outcome) -> Iterator[str]:
    if outcome.plan is None or outcome.tree is None:
        return
    runs = outcome.plan.placements
    for module in outcome.tree.modules:
        if module.class_name in outcome.tree.no_split:
            where = {str(unit.runs_on) for unit in runs.below(module.path).values()}
            if len(where) > 1:
                yield f"block `{module.path}` executes on {_listed(where)}"


def _one_type(outcome: Outcome) -> Iterator[str]:
    if outcome.plan is not None:
        types = {device.type.value for device in outcome.plan.placements.devices}
        if len(types) > 1:
            yield f"modules execute on {_listed(types)}"


def _resident(outcome: Outcome) -> Iterator[str]:
    if outcome.plan is not None:
        away = {path: unit for path, unit in outcome.plan.placements.items() if unit.device != unit.runs_on}
        for path, unit in list(away.items())[:1]:
            more = f" and {len(away) - 1} more are" if len(away) > 1 else " is"
            yield f"`{path}`{more} stored on `{unit.device}` by `{unit.rule}`, and executes on `{unit.runs_on}`"


def _context(outcome: Outcome, tokens: int) -> Iterator[str]:
    if outcome.plan is None or outcome.tree is None:
        return
    planned = context_of(outcome.tree, outcome.policy.workload)
    if planned < tokens:
        yield f"its KV cache has room for {planned:,} tokens"


def _never_on(outcome: Outcome, term: DeviceSelector) -> Iterator[str]:
    used = [device for device in sorted(_devices(outcome)) if is_meant(device, term, outcome.host)]
    for device in used:
        if outcome.plan is None:
            yield f"`{device}` is chosen"
            continue
        units = outcome.plan.placements.items()
        path, unit = next((path, unit) for path, unit in units if device in (str(unit.device), str(unit.runs_on)))
        kept, runs = device == str(unit.device), device == str(unit.runs_on)
        what = "is on" if kept and runs else "is stored on" if kept else "executes on"
        yield f"`{path}` {what} `{device}`, decided by `{unit.rule}`: {unit.reason}"


def _same_each_time(outcome: Outcome) -> Iterator[str]:
    again = outcome.replanned()
    if outcome.plan is not None and (again.plan is None or again.plan.to_dict() != outcome.plan.to_dict()):
        yield "planning again gives another plan"
    elif again.refusal != outcome.refusal or again.device != outcome.device:
        yield "asking again gives another answer"


def _runs(outcome: Outcome) -> Iterator[str]:
    if outcome.plan is None or outcome.tree is None:
        return
    from devpolicy._core.dry_run.remembered import dry_run_of

    try:
        yield from dry_run_of(outcome.plan, outcome.tree, outcome.host).complaints()
    except DevPolicyError as refused:
        yield f"it cannot be tried: {refused}"


def _listed(names: set[str]) -> str:
    return " and ".join(f"`{name}`" for name in sorted(names))


_CHECKS: dict[str, Callable[[Outcome], Iterator[str]]] = {
    "always_resolves": _always_resolves,
    "placed_or_refused": _placed_or_refused,
    "within_budget": _within_budget,
    "ties_together": _ties_together,
    "blocks_whole": _blocks_whole,
    "one_type": _one_type,
    "resident": _resident,
    "same_each_time": _same_each_time,
    "runs": _runs,
}
