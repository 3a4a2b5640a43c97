"""Several copies of a component with equal settings, each on accelerators of its own.

Owns their names (`NAME/0`), how many there are, and which accelerators are left to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import MOST_DEVICES
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.plan import Plan

Group = tuple[Plan, ...]
"""The plans of one component: one, or one for each replica."""
MakePlan = Callable[[ResolvedPolicy, dict[str, int]], Plan]
"""Plans one copy, given what the copies before it reserve."""


def plan_copies(policy: ResolvedPolicy, make: MakePlan) -> Group:
    """Plan each copy beside those before it. Raises `Unsatisfiable` where there are fewer than are asked for."""
    if policy.replicas == 1:
        return (make(policy, {}),)
    wanted = copies_on_one_host(policy) if policy.replicas == "each" else policy.replicas
    made: list[Plan] = []
    try:
        made += islice(each_copy(policy, make, made), wanted)
    except Unsatisfiable as refused:
        if not made:
            raise
        if policy.replicas != "each":
            raise _too_few(refused, len(made), policy) from None
    return tuple(made)


def copies_on_one_host(policy: ResolvedPolicy) -> int:
    """Return as many copies as one host may have: on the CPU there is one device, which every copy would share."""
    return 1 if all(term.type == "cpu" for term in policy.prefer) else MOST_DEVICES


def each_copy(policy: ResolvedPolicy, make: MakePlan, made: Sequence[Plan]) -> Iterator[Plan]:
    """Yield copy after copy, each on accelerators that none before it uses. The caller keeps them in `made`.

    Raises `Unsatisfiable` where there is no place for one more.
    """
    used: tuple[DeviceSelector, ...] = ()
    for number in count():
        copy = replace(policy, component=f"{policy.component}/{number}", avoid=(*policy.avoid, *used), replicas=1)
        plan = make(copy, reserved_bytes(made))
        yield plan
        used = tuple(dict.fromkeys((*used, *used_accelerators([plan]))))


def used_accelerators(plans: Iterable[Plan]) -> tuple[DeviceSelector, ...]:
    """Return the accelerators that plans use, each once."""
    units = [unit for plan in plans for unit in plan.placements.values()]
    devices = dict.fromkeys(device for unit in units for device in (unit.device, unit.runs_on))
    used = [device for device in devices if device.type.value not in ("cpu", "disk")]
    return tuple(DeviceSelector(device.type.value, device.id or 0) for device in used)


def _too_few(refused: Unsatisfiable, number: int, policy: ResolvedPolicy) -> Unsatisfiable:
    terms = " or ".join(f"`{term}`" for term in policy.prefer)
    message = f"{number} of {policy.replicas} replicas of `{policy.component}` fit on {terms}"
    first = refused.diagnostics[0]
    note = f"each takes accelerators of its own, and for one more: {first.message}"
    hint = 'ask for fewer, or for as many as fit: `replicas = "each"`'
    return Unsatisfiable(Diagnostic("DP301", message, first.place, notes=(note, *first.notes), help=hint))
