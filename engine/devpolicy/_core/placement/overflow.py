"""What does not fit is kept elsewhere, as little as possible.

Owns `overflow`: which units go (those that cost least for what they free), and to which place. How the rest is placed
is the matter of `search`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from devpolicy._core.connected import united
from devpolicy._core.errors import Diagnostic
from devpolicy._core.placement.prediction import milliseconds
from devpolicy._core.placement.rules import Assignment, Kept, keep, no_place
from devpolicy._core.placement.search import Attempt, Problem, place, place_anyhow
from devpolicy._core.placement.trace import Trace
from devpolicy._core.placement.units import Unit
from devpolicy._core.sizes import format_size

OVERFLOW = "overflow"
"""The name under which a plan says that a unit is kept elsewhere for want of room."""

_SCANNED = 512
"""Up to so many candidates every count is tried; beyond, the least count is bracketed by doubling and halved."""

_TRIED = 6
_EXCHANGES = 3
"""So many ways to keep less elsewhere are tried, once it is known how many clusters must go."""

Cluster = list[int]
Places = dict[int, tuple[Unit, Kept]]


def spill(problem: Problem, trace: Trace) -> Attempt | None:
    """Keep elsewhere what costs least and lets the rest fit. Returns `None` where nothing does."""
    world = problem.world
    if not world.policy.overflow or not world.target.maps:
        return None
    order, places = _places(_candidates(problem), problem, trace)

    def without(gone: Sequence[Cluster]) -> Problem | None:
        kept = _best_places(gone, places, problem)
        return None if kept is None else Problem(problem.units, _without(problem.assignment, gone, kept), world)

    def attempt(count: int) -> Attempt | None:
        left = without(order[:count])
        return None if left is None else place_anyhow(left)

    found = _least(_at_least(problem, order), len(order), attempt)
    if found is None:
        return None
    gone = _less(order[: found[0]], order, problem, without)
    left = without(gone)
    # What goes is known now; the rest is placed as `split` says.
    placed = None if left is None else place(left)
    if placed is None:
        return None
    gone, placed = _beside(gone, order, placed, without)
    _explain(gone, order, placed, trace)
    return placed


def _candidates(problem: Problem) -> list[list[int]]:
    """Clusters that may be kept elsewhere, in the order in which they go.

    First what has to be brought in least often for each byte that it frees: an encoder runs once for a request, a tied
    head and its embedding are brought in twice for each token. Where that is the same, whole blocks come first, the
    last one before the others: each module inside is small, and so is what it needs on the main device for a moment.
    Then other modules, the smallest first. Then what has to go as one. A container's own tensors stay, because no
    consumer can keep them elsewhere.
    """
    units = problem.units

    def rank(cluster: list[int]) -> tuple[Fraction, int, int, int]:
        price = _price(cluster, problem)
        first = units[cluster[0]]
        one_block = first.block is not None and all(units[at].block == first.block for at in cluster)
        if one_block or (first.is_block and len(cluster) == 1):
            return price, 0, 0, -cluster[0]
        size = first.streamed if len(cluster) == 1 else sum(units[at].weights for at in cluster)
        return price, min(len(cluster), 2), size, -cluster[0]

    return sorted(movable(problem), key=rank)


def movable(problem: Problem) -> list[Cluster]:
    """Return the clusters that may be kept elsewhere, in no order that means anything."""
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

    return [cluster for cluster in (*problem.clusters, *united([*assignment.bound, *rest.values()])) if may_go(cluster)]


def _price(cluster: Cluster, problem: Problem) -> Fraction:
    """Return the bytes that are brought in over a request for each byte that keeping the cluster elsewhere frees."""
    freed = sum(problem.units[at].weights for at in cluster)
    return Fraction(_brought(cluster, problem), freed)


def _brought(cluster: Cluster, problem: Problem) -> int:
    return sum(problem.world.costs.brought(problem.units[at]) for at in cluster)


def _places(candidates: Sequence[Cluster], problem: Problem, trace: Trace) -> tuple[list[Cluster], Places]:
    """Give each candidate the first place with room; those that find none are no candidates."""
    room = replace(problem.assignment, kept={}, pinned={})
    order: list[Cluster] = []
    places: Places = {}
    for cluster in candidates:
        failure = _keep(cluster, problem, room, places)
        if failure is None:
            order.append(cluster)
        else:
            trace.note(problem.units[cluster[0]].path, f"overflow: {failure.message}")
    return order, places


def _keep(cluster: Cluster, problem: Problem, room: Assignment, places: Places) -> Diagnostic | None:
    """Note the first place of `overflow` with room for a cluster; return why there is none."""
    world, units = problem.world, problem.units
    failure: Diagnostic | None = None
    for term in world.policy.overflow:
        # Where the pool is shared, keeping on the CPU frees nothing.
        if term.type == world.kind or (term.type == "cpu" and any(seat.unified for seat in world.seats)):
            continue
        failure = no_place(term.type, None, [units[at] for at in cluster], world, room)
        if failure is None:
            kept = Kept(term.type, OVERFLOW, f"no room on `{world.kind}`, and `overflow` allows `{term}`")
            for at in cluster:
                keep(at, units[at], kept, room)
                places[at] = units[at], kept
            return None
    return failure or Diagnostic("DP303", "nothing in `overflow` is another place")


def _best_places(gone: Sequence[Cluster], places: Places, problem: Problem) -> Places | None:
    """Return where `gone` is kept: what is brought in most often takes the first place of `overflow`."""
    if len(problem.world.policy.overflow) == 1 or len(gone) > _SCANNED:
        return places
    room, better = replace(problem.assignment, kept={}, pinned={}), Places()
    for cluster in sorted(gone, key=lambda cluster: -_price(cluster, problem)):
        if _keep(cluster, problem, room, better) is not None:
            return None
    return better


def _less(
    gone: list[Cluster], order: Sequence[Cluster], problem: Problem, without: Callable[[list[Cluster]], Problem | None]
) -> list[Cluster]:
    """Return what may stay out of `gone` for the rest to fit still, or `gone` with its last exchanged for less.

    The order takes what is cheap for each byte, and the last that it takes may be more than is missing.
    """
    if len(order) > _SCANNED:
        return gone

    # In another order of the devices than that of their ids, less may do.
    search = place if problem.world.policy.split == "fastest" else place_anyhow

    def fits(clusters: list[Cluster]) -> bool:
        left = without(clusters) if clusters else None
        return left is not None and search(left) is not None

    if search is place and fits(gone[:-1]):
        gone = gone[:-1]
    for _ in range(_EXCHANGES):
        less = _exchanged(gone, order, problem, fits)
        if less is gone:
            break
        gone = less
    for one in _unlike(sorted(gone, key=lambda cluster: -_brought(cluster, problem)), problem)[:_TRIED]:
        rest = [cluster for cluster in gone if cluster is not one]
        gone = rest if fits(rest) else gone
    return gone


def _exchanged(
    gone: list[Cluster], order: Sequence[Cluster], problem: Problem, fits: Callable[[list[Cluster]], bool]
) -> list[Cluster]:
    """Return `gone` with what costs most exchanged for one, or else for several, that together cost less."""
    out = max(reversed(gone), key=lambda cluster: _brought(cluster, problem))
    rest, most = [cluster for cluster in gone if cluster is not out], _brought(out, problem)
    others = sorted((one for one in order if one not in gone), key=lambda one: _brought(one, problem))
    cheaper = [one for one in others if _brought(one, problem) < most]
    for one in _unlike(cheaper, problem)[:_TRIED]:
        if fits([*rest, one]):
            return [*rest, one]
    several: list[Cluster] = []
    for one in cheaper[:_TRIED]:
        several.append(one)
        if sum(_brought(other, problem) for other in several) >= most:
            break
        if len(several) > 1 and fits([*rest, *several]):
            return [*rest, *several]
    return gone


def _beside(
    gone: list[Cluster], order: Sequence[Cluster], placed: Attempt, without: Callable[[list[Cluster]], Problem | None]
) -> tuple[list[Cluster], Attempt]:
    """Let small modules go along where that saves crossings: a norm between a block and a head that are both away."""
    problem = placed.problem
    costs = problem.world.costs
    if problem.world.policy.split != "fastest":
        return gone, placed
    small = (
        cluster
        for cluster in order
        if cluster not in gone
        and sum(costs.streamed(problem.units[at], "cpu", link=True) for at in cluster) < 2 * costs.crossing
    )
    for one in _unlike(small, problem)[:4]:
        left = without([*gone, one])
        found = None if left is None else place(left)
        if found is not None and found.time < placed.time:
            gone, placed = [*gone, one], found
    return gone, placed


def _unlike(clusters: Iterable[Cluster], problem: Problem) -> list[Cluster]:
    """Return the first of those that are alike to the search."""
    kinds: dict[tuple[tuple[int, ...], ...], Cluster] = {}
    for cluster in clusters:
        units = [problem.units[at] for at in cluster]
        kinds.setdefault(tuple((one.weights, one.kv_cache, one.streamed, one.rewritten) for one in units), cluster)
    return list(kinds.values())


def _explain(gone: Sequence[Cluster], order: Sequence[Cluster], placed: Attempt, trace: Trace) -> None:
    """Note for each unit that goes what it frees and adds, and what would have gone instead."""
    problem = placed.problem
    costs, kept = problem.world.costs, problem.assignment.kept

    def sums(cluster: Cluster, where: str) -> tuple[str, str]:
        units = [problem.units[at] for at in cluster]
        time = sum(costs.streamed(unit, where, link=problem.world.link) for unit in units)
        return format_size(sum(unit.weights for unit in units)), milliseconds(time, costs.tokens)

    instead = next((cluster for cluster in order if not any(cluster is one for one in gone)), None)
    for cluster in gone:
        where = kept[cluster[0]].place
        size, time = sums(cluster, where)
        text = f"overflow: frees {size}, and is predicted to add {time} to each token"
        if instead is not None:
            size, time = sums(instead, where)
            text += f"; next would be `{problem.units[instead[0]].path}`: {size}, {time}"
        for at in cluster:
            trace.note(problem.units[at].path, text)


def _without(assignment: Assignment, gone: Sequence[Cluster], places: Places) -> Assignment:
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


def _at_least(problem: Problem, order: Sequence[Cluster]) -> int:
    """Return how many candidates must go at least, by weights alone: a lower bound that costs nothing to find."""
    bins = [*problem.bins(None).values(), *problem.closed(None)]
    room = sum(max(0, one.budget - one.fixed) for one in bins)
    total = problem.sums.weights[-1] + sum(problem.units[at].resident for at in problem.assignment.with_main)
    for count, cluster in enumerate(order, start=1):
        total -= sum(problem.units[at].weights for at in cluster)
        if total <= room:
            return count
    return len(order)


def _least(low: int, high: int, attempt: Callable[[int], Attempt | None]) -> tuple[int, Attempt] | None:
    """Return the least count from `low` to `high` that succeeds, with its attempt.

    Keeping more is not always easier, because the KV cache of what is kept counts on the main device. So
    all counts are tried while they are few.
    """
    if high - low <= _SCANNED:
        counts = range(low, high + 1)
        return next(((count, found) for count in counts if (found := attempt(count)) is not None), None)
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
    return top, found
