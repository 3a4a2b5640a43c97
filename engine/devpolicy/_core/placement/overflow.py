"""What does not fit is offloaded, as little as possible.

Owns the choice among the candidates of `overflow`: those that cost least for what they free. Under `fastest` what other
splits would offload is tried too. `search` and `scatter` place the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from devpolicy._core.cost.prediction import milliseconds
from devpolicy._core.placement import exact
from devpolicy._core.placement.apply_rules import Assignment, record_offload
from devpolicy._core.placement.candidates import (
    OVERFLOW,
    SCANNED,
    Candidates,
    Notes,
    Offloads,
    best_places,
    candidates_of,
    may_store,
)
from devpolicy._core.placement.counting import are_too_much
from devpolicy._core.placement.divide import Cluster
from devpolicy._core.placement.first_layers import spill_first_layers
from devpolicy._core.placement.scatter import fit_in_any_order, place_in_any_order, with_all_back
from devpolicy._core.placement.search import Attempt, Problem, in_context, place
from devpolicy._core.placement.solver import Bin
from devpolicy._core.sizes import format_size

_TRIED = 6
_EXCHANGES = 3
"""So many ways to offload less are tried, once it is known how many clusters must go."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """An attempt with a part of the model offloaded, and for people what was considered."""

    attempt: Attempt
    notes: Notes


def spill(problem: Problem) -> Spilled | None:
    """Offload what costs least and lets the rest fit. Returns `None` where nothing does.

    Under `fastest` what other splits would offload is tried, and may be faster.
    """
    context = problem.context
    if not context.policy.overflow or not context.target.abilities.maps:
        return None
    if context.cpu_number is not None:
        attempt = spill_first_layers(problem, OVERFLOW)
        return None if attempt is None else Spilled(attempt, ())
    tried = _Tried(problem, candidates_of(problem))
    best = _spill(tried, problem)
    back = None if best is None else with_all_back(best.attempt, problem)
    if back is not None:
        return Spilled(back, ())
    if best is None or context.policy.split != "fastest":
        return best
    for split in ("when-needed", "balanced"):
        other = _spill(tried, problem.under(replace(context, policy=replace(context.policy, split=split))))
        if other is not None:
            attempt = in_context(other.attempt, context)
            if attempt.time < best.attempt.time:
                best = replace(other, attempt=attempt)
    return best


@dataclass(frozen=True)
class _Tried:
    """What is the same whatever `split` says: candidates, and whether the rest fits without some of them."""

    problem: Problem
    candidates: Candidates
    chosen: dict[bool, list[Cluster] | None] = field(default_factory=dict)
    """What goes, by whether time counts."""
    left: dict[tuple[Cluster, ...], Problem | None] = field(default_factory=dict)
    known: dict[tuple[Cluster, ...], Attempt | None] = field(default_factory=dict)

    @cached_property
    def count(self) -> int | None:
        """How many candidates go at least, in their order; `None` where it does not fit without all of them."""
        order = self.candidates.order
        low = _at_least(self.problem, order)
        return _least(low, len(order), lambda count: self.fit(order[:count]) is not None)

    @cached_property
    def bins(self) -> dict[int, Bin]:
        """The devices, before anything is offloaded."""
        return {**self.problem.chosen_bins(None), **self.problem.bins(None)[0]}

    @cached_property
    def sizes(self) -> dict[Cluster, int]:
        """The bytes that each open cluster takes of any device at least."""
        sums = self.problem.sums
        prefix = sums.weights if any(one.weights_only for one in self.bins.values()) else sums.with_cache
        each = (behind - before for before, behind in pairwise(prefix))
        return dict(zip(self.problem.assignment.clusters, each, strict=True))

    def hopeless(self, gone: Sequence[Cluster]) -> bool:
        """Whether sums alone show that what stays fits in no order, whichever device is the main one."""
        problem, context = self.problem, self.problem.context
        counts = Counter(self.sizes.values())
        counts.subtract(self.sizes[cluster] for cluster in gone if cluster in self.sizes)
        rooms = {number: one.budget - one.fixed for number, one in self.bins.items() if one.fixed <= one.budget}
        if problem.pinned:  # one of these devices may be the main one, and be none of the others
            return are_too_much(counts, rooms.values())
        units, on_main = problem.units, problem.assignment.runs_on_main
        moved = [at for cluster in gone for at in cluster]
        streaming = max([problem.streaming, *(units[at].onload_peak for at in moved)])
        load = problem.main_load + sum(units[at].buffers - units[at].resident * (at in on_main) for at in moved)
        cache = problem.main_cache + sum(context.caches([units[at] for at in moved if at not in on_main]))
        seen: set[tuple[int, int]] = set()
        for number, room in rooms.items():
            taken = streaming + context.needs(number, load, cache)
            if (room, taken) not in seen and taken <= room:
                if not are_too_much(counts, {**rooms, number: room - taken}.values()):
                    return False
                seen.add((room, taken))
        return True

    def without(self, gone: Sequence[Cluster], problem: Problem) -> Problem | None:
        """Return the problem with clusters offloaded, `None` where their places have no room."""
        what = tuple(gone)
        if what not in self.left:
            offloads = best_places(gone, self.candidates, self.problem)
            assignment = None if offloads is None else _without(self.problem, gone, offloads)
            self.left[what] = None if assignment is None else replace(self.problem, assignment=assignment)
        left = self.left[what]
        return None if left is None else left.under(problem.context)

    def fit(self, gone: Sequence[Cluster]) -> Attempt | None:
        """Return any attempt that fits once clusters are offloaded."""
        what = tuple(gone)
        if what not in self.known:
            left = self.without(gone, self.problem) if gone and not self.hopeless(gone) else None
            self.known[what] = None if left is None else fit_in_any_order(left)
        return self.known[what]


def _spill(tried: _Tried, problem: Problem) -> Spilled | None:
    gone, placed = _cheapest_first(tried, problem)
    better = _exact(problem, tried.candidates, gone, placed)
    if better is not None:
        gone, placed = better
    notes = tried.candidates.notes
    return None if placed is None else Spilled(placed, (*notes, *_explained(gone, tried.candidates.order, placed)))


def _cheapest_first(tried: _Tried, problem: Problem) -> tuple[list[Cluster], Attempt | None]:
    """Return the least part of the order that must go, mended by exchanges, and how the rest is placed then."""
    by_time = problem.context.policy.split == "fastest"
    if by_time not in tried.chosen:
        gone = None if tried.count is None else list(tried.candidates.order[: tried.count])
        tried.chosen[by_time] = None if gone is None else _less(gone, tried, problem)
    gone = tried.chosen[by_time]
    if gone is None:
        return [], None
    left = tried.without(gone, problem)
    # What goes is known now; the rest is placed as `split` says.
    placed = None if left is None else place_in_any_order(left)
    return (gone, None) if placed is None else _along(gone, placed, tried, problem)


def _exact(
    problem: Problem, candidates: Candidates, gone: Sequence[Cluster], placed: Attempt | None
) -> tuple[list[Cluster], Attempt] | None:
    """Return what goes and how the rest is placed where a small problem has something better, else `None`."""
    context = problem.context
    overflow = [selector.type for selector in context.policy.overflow]
    if len(problem.assignment.clusters) > exact.MOST_CLUSTERS:
        return None
    if overflow[:1] == ["disk"] and len(overflow) > 1:
        return None  # the faster place comes last by the policy's own order
    places = {
        at: tuple(place for place in overflow if may_store(place, cluster, problem))
        for at, cluster in enumerate(problem.assignment.clusters)
        if cluster in candidates.order
    }
    by_time = context.policy.split == "fastest"
    cost = None
    if placed is not None:
        cost = placed.time if by_time else sum(candidates.transferred[cluster] for cluster in gone)
    found = exact.search(problem, places, cost)
    if found is None:
        return None
    reason = f"no room on `{context.kind}`, and `overflow` allows `{{}}`"
    gone, offloads = exact.offloads_of(problem, found, OVERFLOW, reason)
    left = replace(problem, assignment=_without(problem, gone, offloads))
    attempt = None if by_time else place_in_any_order(left)
    return gone, attempt or exact.attempt_at(left, found)


def _less(gone: list[Cluster], tried: _Tried, problem: Problem) -> list[Cluster]:
    """Return what may stay out of `gone` for the rest to fit still, or `gone` with its last exchanged for less.

    The order takes what is cheap for each byte, and the last that it takes may be more than is missing.
    """
    transferred = tried.candidates.transferred
    if len(tried.candidates.order) > SCANNED:
        return gone
    by_time = problem.context.policy.split == "fastest"

    def fits(clusters: list[Cluster]) -> bool:
        if tried.fit(clusters) is not None:
            return True
        if not by_time or tried.hopeless(clusters):
            return False
        # In another order of the devices than that of their ids, less may do.
        left = tried.without(clusters, problem) if clusters else None
        return left is not None and not left.assignment.choices and place(left) is not None

    if by_time and fits(gone[:-1]):
        gone = gone[:-1]
    for _ in range(_EXCHANGES):
        less = _exchanged(gone, tried, problem, fits)
        if less is gone:
            break
        gone = less
    for one in _unlike(sorted(gone, key=lambda cluster: -transferred[cluster]), problem)[:_TRIED]:
        rest = [cluster for cluster in gone if cluster is not one]
        gone = rest if fits(rest) else gone
    return gone


def _exchanged(
    gone: list[Cluster], tried: _Tried, problem: Problem, fits: Callable[[list[Cluster]], bool]
) -> list[Cluster]:
    """Return `gone` with what costs most exchanged for one, or else for several, that together cost less."""
    order, transferred = tried.candidates.order, tried.candidates.transferred
    out = max(reversed(gone), key=transferred.__getitem__)
    rest, most = [cluster for cluster in gone if cluster is not out], transferred[out]
    others = sorted((one for one in order if one not in gone), key=transferred.__getitem__)
    cheaper = [one for one in others if transferred[one] < most]
    for one in _unlike(cheaper, problem)[:_TRIED]:
        if fits([*rest, one]):
            return [*rest, one]
    several: list[Cluster] = []
    for one in cheaper[:_TRIED]:
        several.append(one)
        if sum(transferred[other] for other in several) >= most:
            break
        if len(several) > 1 and fits([*rest, *several]):
            return [*rest, *several]
    return gone


def _along(gone: list[Cluster], placed: Attempt, tried: _Tried, problem: Problem) -> tuple[list[Cluster], Attempt]:
    """Let small modules go along where that saves hand-overs: a norm between a block and a head that are both away."""
    costs = problem.context.costs
    if problem.context.policy.split != "fastest":
        return gone, placed
    small = (
        cluster
        for cluster in tried.candidates.order
        if cluster not in gone
        and sum(costs.transfer_time(problem.units[at], "cpu", link=True) for at in cluster) < 2 * costs.device_hop
    )
    for one in _unlike(small, problem)[:4]:
        left = tried.without([*gone, one], problem)
        found = None if left is None else place_in_any_order(left)
        if found is not None and found.time < placed.time:
            gone, placed = [*gone, one], found
    return gone, placed


def _unlike(clusters: Iterable[Cluster], problem: Problem) -> list[Cluster]:
    """Return the first of those that are alike to the search."""
    kinds: dict[tuple[tuple[int, ...], ...], Cluster] = {}
    for cluster in clusters:
        units = [problem.units[at] for at in cluster]
        kinds.setdefault(tuple((one.weights, one.kv_cache, one.onload_peak, one.rewritten) for one in units), cluster)
    return list(kinds.values())


def _explained(gone: Sequence[Cluster], order: Sequence[Cluster], placed: Attempt) -> Notes:
    """Return for each unit that goes what it frees and adds, and what would have gone instead."""
    problem = placed.problem
    costs, offloaded = problem.context.costs, problem.assignment.offloaded

    def sums(cluster: Cluster, where: str) -> tuple[str, str]:
        units = [problem.units[at] for at in cluster]
        time = sum(costs.transfer_time(unit, where, link=problem.context.link) for unit in units)
        return format_size(sum(unit.weights for unit in units)), milliseconds(time, costs.tokens)

    instead = next((cluster for cluster in order if not any(cluster is one for one in gone)), None)
    notes = []
    for cluster in gone:
        where = offloaded[cluster[0]].place
        size, time = sums(cluster, where)
        text = f"overflow: frees {size}, and is predicted to add {time} to each token"
        if instead is not None:
            size, time = sums(instead, where)
            text += f"; next would be `{problem.units[instead[0]].path}`: {size}, {time}"
        notes += [(problem.units[at].path, text) for at in cluster]
    return tuple(notes)


def _without(problem: Problem, gone: Sequence[Cluster], offloads: Offloads) -> Assignment:
    """Return the assignment with the clusters in `gone` offloaded."""
    left, assignment = {at for cluster in gone for at in cluster}, problem.assignment
    remaining = replace(
        assignment,
        clusters=tuple(cluster for cluster in assignment.clusters if cluster[0] not in left),
        runs_on_main={at: why for at, why in assignment.runs_on_main.items() if at not in left},
        choices={at: choice for at, choice in assignment.choices.items() if at not in left},
    )
    return record_offload(remaining, problem.units, {at: offloads[at] for at in sorted(left)}, problem.context)


def _at_least(problem: Problem, order: Sequence[Cluster]) -> int:
    """Return how many candidates must go at least, by weights alone: a lower bound that costs nothing to find."""
    open_, closed = problem.bins(None)
    bins = {**closed, **problem.chosen_bins(None), **open_}
    room = sum(max(0, one.budget - one.fixed) for one in bins.values())
    total = problem.sums.weights[-1] + sum(problem.units[at].resident for at in problem.assignment.runs_on_main)
    for count, cluster in enumerate(order, start=1):
        total -= sum(problem.units[at].weights for at in cluster)
        if total <= room:
            return count
    return len(order)


def _least(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the least count from `low` to `high` that fits, `None` where none does.

    Offloading more is not always easier, because its KV cache counts on the main device. So
    all counts are tried while they are few.
    """
    if high - low <= SCANNED:
        return next((count for count in range(low, high + 1) if fits(count)), None)
    step, bottom, top = 1, low - 1, low
    while not fits(top):
        if top == high:
            return None
        bottom, top = top, min(high, top + step)
        step *= 2
    while top - bottom > 1:
        middle = (top + bottom) // 2
        if fits(middle):
            top = middle
        else:
            bottom = middle
    return top
