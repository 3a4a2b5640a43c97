"""What rules let `overflow`: the modules that leave first where a model does not fit.

Owns their order (the last in execution order leaves first), the choices to try, and the place of each. Which of them
leave is found by placing the rest: as few as let it fit. What leaves by the policy's own `overflow` is `overflow`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import Rule
from devpolicy._core.placement.apply_rules import Assignment, Offload, is_elsewhere, offload_error, storage_bytes
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Unit

Notes = tuple[tuple[str, str], ...]


def leaving_first(
    assignment: Assignment, units: Sequence[Unit], context: PlacementContext
) -> tuple[list[Mapping[int, Offload]], Notes]:
    """Return what leaves together and where to, in the order in which it leaves, and why something may not leave.

    Each takes the first place of its rule that has room beside those before it.
    """
    stored, order, notes = dict(assignment.stored), list[Mapping[int, Offload]](), list[tuple[str, str]]()
    clusters = [cluster for cluster in assignment.clusters if cluster[0] in assignment.may_leave]
    for cluster in sorted(clusters, key=lambda cluster: -cluster[-1]):
        members = [units[at] for at in cluster]
        found = _place(members, assignment.may_leave[cluster[0]], context, stored)
        if isinstance(found, Diagnostic):
            notes.append((members[0].path, f"overflow: {found.message}"))
            continue
        order.append(dict.fromkeys(cluster, found))
        stored[found.place] += sum(storage_bytes(unit, found.place) for unit in members)
    return order, tuple(notes)


def choices_of(
    order: Sequence[Mapping[int, Offload]], context: PlacementContext
) -> Iterator[tuple[Mapping[int, Offload], ...]]:
    """Yield what may leave in turn, fewest first: the first of the order, and where that helps as many all over it.

    Where a device holds one run of layers, and the rest of each layer stays, the rests of the last ones would all be on
    one device, and the others would have room that nothing can take.
    """
    several = context.cpu_number is not None and len(context.open) > 1
    for count in range(1, len(order) + 1):
        yield tuple(order[:count])
        stay = len(order) - count
        if several and stay:
            kept = {at * len(order) // stay for at in range(stay)}
            yield tuple(one for at, one in enumerate(reversed(order)) if at not in kept)


def _place(
    members: Sequence[Unit], rule: Rule, context: PlacementContext, stored: Mapping[str, int]
) -> Offload | Diagnostic:
    """Return the first place of a rule with room for units, or why there is none."""
    failure = Diagnostic("DP303", f"nothing in `overflow` of rule `{rule.name}` is another place")
    if any(unit.direct_tensors_only for unit in members):
        return Diagnostic("DP408", "it is what a module itself holds, and its children stay")
    for selector in rule.overflow:
        place = selector.type
        if not is_elsewhere(place, context):
            continue
        found = offload_error(place, rule, members, context, stored)
        if found is None:
            why = f"no room on `{context.kind}`, and rule `{rule.name}` allows `{selector}`"
            return Offload(place, rule.name, rule.reason or why)
        failure = found
    return failure


def may_fit(units: Iterable[Unit], leaving: Mapping[int, Offload], context: PlacementContext) -> bool:
    """Whether the weights that stay are no more than the devices have in sum: a bound that costs nothing."""
    stay = sum(unit.buffers if at in leaving else unit.resident for at, unit in enumerate(units))
    return stay <= sum(max(0, one.budget) for one in context.devices)
