"""What does not fit is kept elsewhere, as little as possible.

Owns `overflow`: which units go, in which order, and to which place. How the rest is placed is the
matter of `search`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from devpolicy.placement.rules import Assignment, Kept, World, keep, no_place
from devpolicy.placement.search import Attempt, Problem, place, place_anyhow
from devpolicy.placement.trace import Trace
from devpolicy.placement.units import Unit, united

_SCANNED = 512
"""Up to so many candidates every count is tried; beyond, the least count is bracketed by doubling and halved."""


def spill(problem: Problem, trace: Trace) -> Attempt | None:
    """Keep the fewest clusters elsewhere that let the rest fit. Returns `None` where none do."""
    world, units = problem.world, problem.units
    if not world.policy.overflow or not world.target.maps:
        return None
    order, places = _places(_candidates(problem), units, problem.assignment, world, trace)

    def attempt(count: int) -> Attempt | None:
        return place_anyhow(Problem(units, _without(problem.assignment, order[:count], places), world))

    found = _least(_at_least(problem, order), len(order), attempt)
    # How much goes is known now; the rest is placed as `split` says.
    return None if found is None else place(found.problem)


def _candidates(problem: Problem) -> list[list[int]]:
    """Clusters that may be kept elsewhere, in the order in which they go.

    Whole blocks come first, the last one before the others: each module inside is small, and so is what it needs on
    the main device for a moment. Then other modules, the smallest first. Then what has to go as one, such
    as tied modules. A container's own tensors stay, because no consumer can keep them elsewhere.
    """
    units, assignment = problem.units, problem.assignment
    pieces = Counter(unit.block for at, unit in enumerate(units) if at not in assignment.kept)
    # What is left of a cut block may go as well, all of it.
    rest: dict[int, list[int]] = {}
    for at in assignment.with_main:
        block = units[at].block
        if block is not None:
            rest.setdefault(block, []).append(at)

    def may_go(cluster: list[int]) -> bool:
        here = Counter(units[at].block for at in cluster)
        whole = all(block is None or here[block] == pieces[block] for block in here)
        return whole and any(units[at].weights for at in cluster) and not any(units[at].own_only for at in cluster)

    movable = filter(may_go, [*problem.clusters, *united([*assignment.bound, *rest.values()])])

    def rank(cluster: list[int]) -> tuple[int, int, int]:
        first = units[cluster[0]]
        one_block = first.block is not None and all(units[at].block == first.block for at in cluster)
        if one_block or (first.is_block and len(cluster) == 1):
            return 0, 0, -cluster[0]
        size = first.streamed if len(cluster) == 1 else sum(units[at].weights for at in cluster)
        return min(len(cluster), 2), size, -cluster[0]

    return sorted(movable, key=rank)


def _places(
    candidates: Sequence[list[int]], units: Sequence[Unit], assignment: Assignment, world: World, trace: Trace
) -> tuple[list[list[int]], dict[int, tuple[Unit, Kept]]]:
    """Give each candidate the first place with room; those that find none are no candidates."""
    room = replace(assignment, kept={}, pinned={})
    order: list[list[int]] = []
    places: dict[int, tuple[Unit, Kept]] = {}
    for cluster in candidates:
        for term in world.policy.overflow:
            # Where the pool is shared, keeping on the CPU frees nothing.
            if term.type == world.kind or (term.type == "cpu" and any(seat.unified for seat in world.seats)):
                continue
            failure = no_place(term.type, None, [units[at] for at in cluster], world, room)
            if failure is None:
                kept = Kept(term.type, "overflow", f"no room on `{world.kind}`, and `overflow` allows `{term}`")
                for at in cluster:
                    keep(at, units[at], kept, room)
                    places[at] = units[at], kept
                order.append(cluster)
                break
            trace.note(units[cluster[0]].path, f"overflow: {failure.message}")
    return order, places


def _without(assignment: Assignment, gone: Sequence[list[int]], places: dict[int, tuple[Unit, Kept]]) -> Assignment:
    left = {at for cluster in gone for at in cluster}
    result = replace(
        assignment,
        kept=dict(assignment.kept),
        clusters=[cluster for cluster in assignment.clusters if cluster[0] not in left],
        with_main={at: why for at, why in assignment.with_main.items() if at not in left},
    )
    for at in sorted(left):
        keep(at, *places[at], result)
    return result


def _at_least(problem: Problem, order: Sequence[list[int]]) -> int:
    """Return how many candidates must go at least, by weights alone: a lower bound that costs nothing to find."""
    bins = [*problem.bins(None).values(), *problem.closed(None)]
    room = sum(max(0, one.budget - one.fixed) for one in bins)
    total = problem.sums.weights[-1] + sum(problem.units[at].resident for at in problem.assignment.with_main)
    for count, cluster in enumerate(order, start=1):
        total -= sum(problem.units[at].weights for at in cluster)
        if total <= room:
            return count
    return len(order)


def _least(low: int, high: int, attempt: Callable[[int], Attempt | None]) -> Attempt | None:
    """Return the attempt of the least count from `low` to `high` that succeeds.

    Keeping more is not always easier, because the KV cache of what is kept counts on the main device. So
    all counts are tried while they are few.
    """
    if high - low <= _SCANNED:
        return next((found for count in range(low, high + 1) if (found := attempt(count)) is not None), None)
    step, bottom = 1, low - 1
    found = attempt(low)
    top = low
    while found is None:
        if top == high:
            return None
        bottom, top = top, min(high, top + step)
        step *= 2
        found = attempt(top)
    while top - bottom > 1:
        middle = (top + bottom) // 2
        tried = attempt(middle)
        if tried is None:
            bottom = middle
        else:
            top, found = middle, tried
    return found
