"""`split = "fastest"`: the least predicted time of one token.

Owns the way from a problem to a chain of devices and back to an attempt: which devices are alike, what runs where
whatever is chosen, and how an answer is made even where that costs no time. The search itself is in `chain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

from devpolicy._core.placement import solver
from devpolicy._core.placement.chain import Chain, Lane, Road, chains
from devpolicy._core.placement.cost import per_byte, time_of
from devpolicy._core.placement.search import Attempt, Problem
from devpolicy._core.placement.solver import Bin, Sums


def fastest(problem: Problem, main: int | None) -> Attempt | None:
    """Return the attempt of least predicted time with `main` as the main device, or `None` where none fits.

    Exact over all choices and orders of devices that hold one run each (in the order of ids where there are too many
    kinds). What follows its group, such as a tied head, is charged for its way back once a choice is made.
    """
    bins, closed = problem.bins(main), problem.closed(main)
    if any(one.fixed > one.budget for one in (*closed, *(one for one in bins.values() if one.required))):
        return None
    # The map has to name the main device, else its consumer takes another one: something runs there.
    named = main is None or main in problem.pinned or bool(problem.assignment.with_main)
    if not problem.clusters:
        return _attempt(problem, main, [], bins, closed) if named else None
    lanes, must = _lanes(problem, bins, main), None if named else main
    best: Attempt | None = None
    # Joined, what holds no weights costs no crossing; apart, it may fit where the other does not.
    for joined in (True, False):
        ends, road = _road(problem, main, joined=joined)
        for time, run in chains(road, lanes, must):
            if best is not None and time >= best.time:
                break
            chain = [(number, ends[end]) for number, end in run]
            for way in _even(problem, chain, bins):
                attempt = _attempt(problem, main, way, bins, closed)
                if best is None or (attempt.time, attempt.used, attempt.peak) < (best.time, best.used, best.peak):
                    best = attempt
        if best is not None or len(road) == len(problem.clusters):
            break
    return best


def _lanes(problem: Problem, bins: dict[int, Bin], main: int | None) -> list[Lane]:
    """Group the seats that are alike. One that something runs on in any case is alone."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, one in bins.items():
        rate = per_byte(problem.world.seats[number].bandwidth)
        apart = number if one.required or number == main else -1
        alike.setdefault((apart, rate, one.budget - one.fixed, one.weights_only), []).append(number)
    return [
        Lane(tuple(numbers), room, rate, bool(weights_only)) for (_, rate, room, weights_only), numbers in alike.items()
    ]


def _road(problem: Problem, main: int | None, *, joined: bool) -> tuple[list[int], Road]:
    """Return the clusters in execution order as members of a road, with the seats of what runs between them.

    With `joined`, clusters of which nothing is read go with the one before. The list gives the end of each member in
    the list of clusters, from 0.
    """
    costs, units = problem.world.costs, problem.units
    first = {cluster[0]: number for number, cluster in enumerate(problem.clusters)}
    followers = {at for cluster in problem.clusters for at in cluster[1:]}
    read = [sum(costs.read(units[at]) for at in cluster) for cluster in problem.clusters]
    anchors: list[tuple[int, ...]] = [()]
    ends = [0]
    for at in range(len(units)):
        if at in first:
            number = first[at]
            if joined and number and not read[number]:
                ends[-1] = number + 1
            else:
                anchors.append(())
                ends.append(number + 1)
        elif at not in followers and costs.read(units[at]):
            seat = problem.assignment.pinned[at][0] if at in problem.assignment.pinned else main
            assert seat is not None  # INVARIANT: what is kept, or runs with the main device, needs one
            anchors[-1] = (*anchors[-1], seat)
    sums, reads = problem.sums, [0, *accumulate(read)]
    members = Sums([sums.with_cache[end] for end in ends], [sums.weights[end] for end in ends])
    return ends, Road(members, [reads[end] for end in ends], anchors, costs.crossing)


def _even(problem: Problem, chain: Chain, bins: dict[int, Bin]) -> Iterator[Chain]:
    """Yield the chain, and the same devices with their runs evened out: among equal ones that costs no time."""
    yield chain
    if len(chain) > 1:
        used = [replace(bins[number], required=True) for number, _ in chain]
        ends = solver.least_peak(problem.sums, used)
        if ends is not None and all(end > start for start, end in zip([0, *ends], ends, strict=False)):
            yield [(number, end) for (number, _), end in zip(chain, ends, strict=True)]


def _attempt(problem: Problem, main: int | None, chain: Chain, bins: dict[int, Bin], closed: list[Bin]) -> Attempt:
    peak, start = Fraction(0), 0
    loads = {number: one.fixed for number, one in bins.items() if one.required}
    for number, end in chain:
        one = bins[number]
        loads[number] = one.fixed + problem.sums.load(start, end, weights_only=one.weights_only)
        start = end
    shares = [Fraction(load, bins[number].budget) for number, load in loads.items() if bins[number].budget > 0]
    peak = max([*shares, *(Fraction(one.fixed, max(1, one.budget)) for one in closed)], default=Fraction(0))
    lowest = min([*loads, *problem.pinned], default=next(iter(bins), 0)) if main is None else main
    made = Attempt(problem, dict(chain), lowest, len(loads) + len(closed), peak)
    return replace(made, time=time_of(problem.units, made.solution(), problem.world))
