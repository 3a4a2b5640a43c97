"""What does not fit is kept elsewhere, as little as possible.

Owns `overflow`: which units go, in which order, and to which place. How the rest is placed is the
matter of `search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from devpolicy.placement.rules import Assignment, Kept, World, keep, no_place
from devpolicy.placement.search import Attempt, Problem, place_anyhow
from devpolicy.placement.trace import Trace
from devpolicy.placement.units import Unit

_SCANNED = 512
"""Up to so many candidates every count is tried; beyond, the least count is bracketed by doubling and halved."""


def spill(problem: Problem, trace: Trace) -> Attempt | None:
    """Keep the fewest units elsewhere that let the rest fit. Returns `None` where none do."""
    world, units = problem.world, problem.units
    if not world.policy.overflow or not world.target.maps:
        return None
    candidates = _candidates(problem)
    order, places = _places(candidates, units, problem.assignment, world, trace)

    def attempt(count: int) -> Attempt | None:
        return place_anyhow(Problem(units, _without(problem.assignment, order[:count], places, units, world), world))

    return _least(_at_least(problem, order), len(order), attempt)


def _candidates(problem: Problem) -> list[int]:
    """Units that may be kept elsewhere, in the order in which they go.

    Whole blocks come first, the last one before the others: each module inside is small, and so is what it needs on
    the main device for a moment. Then other modules, the smallest first. Tied units stay, because their partner
    would have to go along, and so do a container's own tensors, which no consumer can keep elsewhere.
    """
    units = problem.units
    alone = [cluster[0] for cluster in problem.clusters if len(cluster) == 1]
    movable = [at for at in alone if units[at].weights and not units[at].own_only and units[at].block is None]
    blocks = [at for at in reversed(movable) if units[at].is_block]
    others = [at for at in movable if not units[at].is_block]
    return blocks + sorted(others, key=lambda at: (units[at].streamed, -at))


def _places(
    candidates: Sequence[int], units: Sequence[Unit], assignment: Assignment, world: World, trace: Trace
) -> tuple[list[int], dict[int, Kept]]:
    """Give each candidate the first place with room; those that find none are no candidates."""
    room = replace(assignment, kept={}, pinned={})
    order, places = [], {}
    for at in candidates:
        for term in world.policy.overflow:
            # Where the pool is shared, keeping on the CPU frees nothing.
            if term.type == world.kind or (term.type == "cpu" and any(seat.unified for seat in world.seats)):
                continue
            failure = no_place(term.type, None, [units[at]], world, room)
            if failure is None:
                kept = Kept(term.type, "overflow", f"no room on `{world.kind}`, and `overflow` allows `{term}`")
                keep(at, units[at], kept, world, room)
                order.append(at)
                places[at] = kept
                break
            trace.note(units[at].path, f"overflow: {failure.message}")
    return order, places


def _without(
    assignment: Assignment, gone: Sequence[int], places: dict[int, Kept], units: Sequence[Unit], world: World
) -> Assignment:
    left = set(gone)
    result = replace(
        assignment,
        kept=dict(assignment.kept),
        clusters=[cluster for cluster in assignment.clusters if cluster[0] not in left],
    )
    for at in gone:
        keep(at, units[at], places[at], world, result)
    return result


def _at_least(problem: Problem, order: Sequence[int]) -> int:
    """Return how many candidates must go at least, by weights alone: a lower bound that costs nothing to find."""
    room = sum(max(0, one.budget - one.fixed) for one in problem.bins(None).values())
    total = problem.sums.weights[-1]
    for count, at in enumerate(order, start=1):
        total -= problem.units[at].weights
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
