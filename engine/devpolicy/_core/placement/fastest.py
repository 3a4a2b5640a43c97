"""`split = "fastest"`: the least predicted time of one token.

Owns the way from a problem to runs of devices and back to an attempt: which devices are alike, what runs where
whatever is chosen, and how an answer is made even where that costs no time. The search itself is in `device_runs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from devpolicy._core.cost.speeds import DeviceSpeed
from devpolicy._core.placement import solver
from devpolicy._core.placement.colocate import holds_own_tensors, run_own_tensors_on_main
from devpolicy._core.placement.device_runs import DeviceGroup, DeviceRuns, LayerSequence, device_runs, holds
from devpolicy._core.placement.search import Attempt, Problem, attempt_of
from devpolicy._core.placement.solver import Bin, Sums


def fastest(problem: Problem) -> Attempt | None:
    """Return the attempt of least predicted time, or `None` where none fits.

    Exact over all choices and orders of devices that hold one run each (in the order of ids where there are too many
    kinds). What follows its group, such as a tied head, is charged for its way back once a choice is made.
    """
    if holds_own_tensors(problem.units) and not problem.needs_main and len(problem.context.open) > 1:
        # Devices may come in any order, and the consumer moves these to the lowest.
        problem = replace(problem, assignment=run_own_tensors_on_main(problem.assignment))
    found = [attempt for main in problem.mains if (attempt := _fastest(problem, main)) is not None]
    return min(found, key=Attempt.rank, default=None)


def _fastest(problem: Problem, main: int | None) -> Attempt | None:
    bins, closed = problem.bins(main)
    fixed = [*closed.values(), *(one for one in bins.values() if one.required)]
    if any(one.fixed > one.budget for one in fixed):
        return None
    must = main if problem.main_needs_cluster(main) else None
    if not problem.assignment.clusters:
        return _attempt(problem, main, [], bins, closed) if must is None else None
    kinds = _kinds(problem, bins, main)
    if not holds(problem.sums, [(len(numbers), room, only) for (_, _, room, only), numbers in kinds.items()]):
        return None
    best: Attempt | None = None
    # Joined, what holds no weights costs no hand-over; apart, it may fit where the other does not.
    for joined in (True, False):
        ends, sequence = _sequence(problem, main, joined=joined)
        groups = _groups(problem, kinds, ends)
        for time, runs in device_runs(sequence, groups, must, any_order=problem.context.target.abilities.any_order):
            if best is not None and time >= best.time:
                break
            found = [(number, ends[end]) for number, end in runs]
            tried = [_attempt(problem, main, one, bins, closed) for one in _even(problem, found, bins)]
            best = min(tried if best is None else [best, *tried], key=lambda one: (one.time, one.used, one.peak))
            if time >= best.time:
                break  # the next takes as long at least, and is searched for when it is asked for
        if best is not None or len(sequence) == len(problem.assignment.clusters):
            break
    return best


_Kinds = dict[tuple[int, DeviceSpeed, int, bool], list[int]]
"""Devices that are alike: by what is apart, speed, room and whether it is for weights only."""


def _kinds(problem: Problem, bins: Mapping[int, Bin], main: int | None) -> _Kinds:
    """Return the devices by their kind. One that something runs on in any case is alone."""
    alike: _Kinds = {}
    for number, one in bins.items():
        apart = number if one.required or number == main else -1
        kind = (apart, problem.context.speeds[number], one.budget - one.fixed, one.weights_only)
        alike.setdefault(kind, []).append(number)
    return alike


def _groups(problem: Problem, kinds: _Kinds, ends: Sequence[int]) -> list[DeviceGroup]:
    """Group the devices that are alike. `ends` are those of the members of the sequence in the list of clusters."""
    times = {speed: _times(problem, speed) for _, speed, _, _ in kinds}
    return [
        DeviceGroup(tuple(numbers), room, [times[speed][end] for end in ends], weights_only)
        for (_, speed, room, weights_only), numbers in kinds.items()
    ]


def _times(problem: Problem, speed: DeviceSpeed) -> list[int]:
    """Return the prefix sums of the attoseconds that each cluster takes on a device."""
    each = problem.context.costs.each(problem.units, speed)
    return [0, *accumulate(sum(each[at] for at in cluster) for cluster in problem.assignment.clusters)]


def _sequence(problem: Problem, main: int | None, *, joined: bool) -> tuple[list[int], LayerSequence]:
    """Return the clusters in execution order as members of a sequence, with the devices of what runs between them.

    With `joined`, clusters of which nothing is read go with the one before. The list gives the end of each member in
    the list of clusters, from 0.
    """
    costs, units, clusters = problem.context.costs, problem.units, problem.assignment.clusters
    first = {cluster[0]: number for number, cluster in enumerate(clusters)}
    followers = {at for cluster in clusters for at in cluster[1:]}
    of_unit = costs.each(units)
    read = [any(of_unit[at] for at in cluster) for cluster in clusters]
    between: list[tuple[int, ...]] = [()]
    ends = [0]
    for at in range(len(units)):
        if at in first:
            number = first[at]
            if joined and number and not read[number]:
                ends[-1] = number + 1
            else:
                between.append(())
                ends.append(number + 1)
        elif at not in followers and of_unit[at]:
            pinned = problem.assignment.pinned
            device = pinned[at][0] if at in pinned else main
            assert device is not None  # INVARIANT: what is offloaded, or runs on the main device, needs one
            between[-1] = (*between[-1], device)
    sums = problem.sums
    members = Sums([sums.with_cache[end] for end in ends], [sums.weights[end] for end in ends])
    return ends, LayerSequence(members, between, costs.device_hop)


def _even(problem: Problem, runs: DeviceRuns, bins: Mapping[int, Bin]) -> Iterator[DeviceRuns]:
    """Yield the runs, and the same devices with their runs evened out: among equal ones that costs no time."""
    yield runs
    if len(runs) > 1:
        used = [replace(bins[number], required=True) for number, _ in runs]
        ends = solver.least_peak(problem.sums, used)
        if ends is not None and all(end > start for start, end in zip([0, *ends], ends, strict=False)):
            yield [(number, end) for (number, _), end in zip(runs, ends, strict=True)]


def _attempt(
    problem: Problem, main: int | None, runs: DeviceRuns, bins: Mapping[int, Bin], closed: Mapping[int, Bin]
) -> Attempt:
    where: dict[int, int] = {}
    start = 0
    for number, end in runs:
        where.update(dict.fromkeys(range(start, end), number))
        start = end
    return attempt_of(problem, main, where, bins, closed)
