"""Placement on devices in any order, each with as many runs as it takes.

Owns what is tried where devices in the order of their ids, with one run each, do not hold everything: a hand-over
between devices costs microseconds, an offloaded block milliseconds. It also chooses for rules that name several
devices. The search itself is in `packing`.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice, permutations

from devpolicy._core.placement.device_runs import holds
from devpolicy._core.placement.packing import Packing
from devpolicy._core.placement.search import (
    Attempt,
    Problem,
    attempt_of,
    attempt_with,
    place,
    place_anyhow,
    place_in_order,
)
from devpolicy._core.placement.solver import Bin

_MOST_CLUSTERS = 512
_ORDERS = 720
"""Orders of devices that are tried where each takes one run: all of them up to six devices."""


def place_in_any_order(problem: Problem) -> Attempt | None:
    """Return the best attempt under the policy's `split`, else any that fits; `None` where none was found."""
    return (None if problem.assignment.choices else place(problem)) or scatter(problem)


def fit_in_any_order(problem: Problem) -> Attempt | None:
    """Return any attempt that fits, `None` where none was found."""
    return (None if problem.assignment.choices else place_anyhow(problem)) or scatter(problem)


def scatter(problem: Problem) -> Attempt | None:
    """Return an attempt that fits, `None` where none was found."""
    if problem.context.target.abilities.runs_per_device == 1:
        return _in_another_order(problem)
    if len(problem.assignment.clusters) > _MOST_CLUSTERS:
        return None
    found = (attempt for main in problem.mains if (attempt := _with_main(problem, main)) is not None)
    return next(found, None)


def with_all_back(placed: Attempt, problem: Problem) -> Attempt | None:
    """Return an attempt that offloads nothing, where what `placed` offloads has room beside the rest as it stands.

    The search ends at a bound, and may not have come by it. `problem` is the one before anything was offloaded.
    """
    context = problem.context
    if context.target.abilities.runs_per_device == 1 or context.policy.split == "never":
        return None
    kept = {placed.problem.assignment.clusters[at]: number for at, number in placed.where.items()}
    clusters = problem.assignment.clusters
    main = None if problem.mains == [None] else placed.main
    bins, closed = problem.bins(main)
    usable = {**bins, **problem.chosen_bins(main)}
    if any(one.required and one.fixed > one.budget for one in (*usable.values(), *closed.values())):
        return None
    stay = {at: kept[cluster] for at, cluster in enumerate(clusters) if cluster in kept}
    packing = Packing.of(problem, main, usable, bins)
    if not all(number in packing.sizes[at] for at, number in stay.items()) or not all(packing.sizes):
        return None
    where = packing.completed(stay)
    return None if where is None else attempt_with(problem, main, where)


def _in_another_order(problem: Problem) -> Attempt | None:
    """Return an attempt with one run on each device, for a target that takes no more, `None` where none was found."""
    in_id_order = not problem.context.target.abilities.any_order
    if problem.assignment.choices or in_id_order or problem.context.policy.split == "never":
        return None
    bins, _ = problem.bins(None)
    kinds = Counter((one.budget - one.fixed, one.weights_only) for one in bins.values())
    if not holds(problem.sums, [(count, room, weights_only) for (room, weights_only), count in kinds.items()]):
        return None
    by_room = sorted(bins, key=lambda number: bins[number].budget - bins[number].fixed)
    orders = islice(permutations(by_room), _ORDERS)
    seen: set[tuple[Bin, ...]] = set()
    for order in (tuple(reversed(by_room)), *orders):
        alike = tuple(bins[number] for number in order)
        if alike not in seen:
            seen.add(alike)
            attempt = place_in_order(problem, order)
            if attempt is not None:
                return attempt
    return None


def _with_main(problem: Problem, main: int | None) -> Attempt | None:
    bins, closed = problem.bins(main)
    pinned = {**bins, **closed}
    if any(one.required and one.fixed > one.budget for one in pinned.values()):
        return None
    # Rules may name devices that the entry of `prefer` leaves out.
    usable = {**bins, **problem.chosen_bins(main)}
    needed = problem.sums.weights if any(one.weights_only for one in usable.values()) else problem.sums.with_cache
    if needed[-1] > sum(max(0, one.budget - one.fixed) for one in usable.values()):
        return None
    for only in bins if problem.context.policy.split == "never" else (None,):
        packing = Packing.of(problem, main, usable, bins if only is None else {only: bins[only]})
        where = None if packing.hopeless() else packing.search()
        if where is not None:
            others = {number: one for number, one in closed.items() if number not in usable}
            return attempt_of(problem, main, where, usable, others)
    return None
