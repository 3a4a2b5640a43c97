"""What the rules left open, placed on the devices.

Owns the stage's parts: the problem, one attempt at it, and `split` on devices in the order of their ids. Everything
that is offloaded runs on the main device, the lowest that the plan uses, and is charged there; so each device that
might be the main one is tried, and the solver answers for the rest. Where that fails, `scatter` places in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from devpolicy._core.language.policy import Rule
from devpolicy._core.placement import solver
from devpolicy._core.placement.apply_rules import Assignment, Offload, bytes_on
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.solver import Bin, Ends, Sums


@dataclass(frozen=True, slots=True)
class Solution:
    """Where every unit runs, and which are offloaded."""

    device: tuple[int, ...]
    """For each unit the number of the device that executes it."""
    offloaded: Mapping[int, Offload]
    ruled: Mapping[int, Rule]
    """Which rule runs a unit where it runs."""
    runs_on_main: Mapping[int, str]
    main: int


@dataclass(frozen=True)
class Problem:
    """The open clusters in execution order, and what is charged to devices whatever the search does."""

    units: Sequence[Unit]
    assignment: Assignment
    context: PlacementContext
    sums: Sums = field(init=False)
    pinned: Mapping[int, int] = field(init=False)
    """Bytes that rules run on each device that they name."""
    streaming: int = field(init=False)
    """The largest module of what is offloaded: its weights are on the main device for a moment."""
    main_load: int = field(init=False)
    main_cache: int = field(init=False)
    known: dict[tuple[int, int | None], Bin] = field(init=False)
    """Devices as they were asked for, by their number and that of the main one."""
    beside_cpu: bool = field(init=False)
    """Whether a part of the layers computes on the CPU beside accelerators."""

    def __post_init__(self) -> None:
        """Sum up what is charged."""
        units, assignment = self.units, self.assignment
        pinned: dict[int, int] = {}
        for at, (number, _) in assignment.pinned.items():
            pinned[number] = pinned.get(number, 0) + bytes_on(number, (units[at],), self.context)
        away, cpu = [units[at] for at in assignment.offloaded], self.context.cpu_number
        on_cpu = [units[at] for at, (number, _) in assignment.pinned.items() if number == cpu]
        on_main = [units[at] for at in assignment.runs_on_main]
        resident, caches = [unit.resident for unit in units], self.context.caches(units)
        clusters = assignment.clusters
        if len(clusters) < len(units) or any(cluster != (at,) for at, cluster in enumerate(clusters)):
            resident, caches = ([sum([of[at] for at in cluster]) for cluster in clusters] for of in (resident, caches))
        sums = Sums.of(resident, caches)
        charged = {
            "known": {},
            "sums": sums,
            "pinned": pinned,
            "streaming": max((unit.onload_peak for unit in away), default=0),
            # What is offloaded still has its buffers and its KV cache on the main device.
            "main_load": sum(unit.buffers for unit in away) + sum(unit.resident for unit in on_main),
            "main_cache": sum(self.context.caches((*away, *on_main))),
            "beside_cpu": bool(on_cpu) and self.context.beside_cpu(on_cpu),
        }
        for name, value in charged.items():
            object.__setattr__(self, name, value)

    def under(self, context: PlacementContext) -> Problem:
        """Return the same problem under another `split`, by which nothing is charged."""
        made = copy(self)
        object.__setattr__(made, "context", context)
        return made

    @cached_property
    def chosen(self) -> set[int]:
        """The devices among which rules leave the choice."""
        return {number for _, numbers in self.assignment.choices.values() for number in numbers}

    @property
    def needs_main(self) -> bool:
        """Whether anything depends on which device is the main one."""
        assignment = self.assignment
        return bool(assignment.offloaded or assignment.runs_on_main) or assignment.main is not None

    @cached_property
    def mains(self) -> list[int] | list[None]:
        """The devices that may be the main one, of equal ones the first; `None` where nothing depends on it."""
        return [*self.main_candidates(dominated=False)] if self.needs_main else [None]

    def main_candidates(self, *, dominated: bool = True) -> Iterator[int]:
        """Yield the devices that rules and the entry of `prefer` allow as the main device.

        Without `dominated`, of those that are alike the first: whatever is placed with a later one, which may use no
        other devices, can be placed with the first in its stead.
        """
        context = self.context
        lowest_pin = min(self.pinned, default=len(context.devices))
        found: list[int] = []
        for number in range(min(lowest_pin + 1, len(context.devices))):
            allowed = number in context.open or number == lowest_pin
            if not allowed or self.assignment.main not in (None, number):
                continue
            if not context.usable_with_main[number].issuperset(self.pinned):
                continue
            if dominated or not found or not self._has_better(number, found):
                found.append(number)
                yield number

    def _has_better(self, number: int, found: Sequence[int]) -> bool:
        """Whether one of the devices that were found takes the place of a later one that is alike."""
        ruled = {*self.chosen, *self.pinned}
        better = (one for one in self.context.better_mains[number] if one in found)
        return number not in ruled and not ruled.issuperset(better)

    def bins(self, main: int | None) -> tuple[dict[int, Bin], dict[int, Bin]]:
        """Return the devices that the clusters may use when `main` is the main one, and the others that rules use."""
        usable = self.context.open if main is None else self.context.usable_with_main[main] & self.context.open
        used = self.pinned if main is None else {*self.pinned, main}
        closed = {number: self._bin(number, main) for number in sorted(used) if number not in self.context.open}
        return {number: self._bin(number, main) for number in sorted(usable)}, closed

    def _bin(self, number: int, main: int | None) -> Bin:
        known = self.known.get((number, main))
        if known is not None:
            return known
        device = self.context.devices[number]
        fixed = self.context.fixed(number, beside_cpu=self.beside_cpu) + self.pinned.get(number, 0)
        if number == main:
            fixed += self.streaming + self.context.needs(number, self.main_load, self.main_cache)
        if device.unified:
            # With one pool for both, what is stored on the CPU's side takes the accelerator's memory.
            fixed += self.assignment.stored["cpu"]
        required = number in self.pinned or number == main
        made = self.known[number, main] = Bin(device.budget, fixed, required, device.kv_cache is not None)
        return made

    def chosen_bins(self, main: int | None) -> dict[int, Bin]:
        """Return the devices among which rules leave the choice, that may be used beside `main`."""
        usable = self.chosen if main is None else self.context.usable_with_main[main] & self.chosen
        return {number: self._bin(number, main) for number in sorted(usable)}

    def main_needs_cluster(self, main: int | None) -> bool:
        """Whether the search must run something on the main device: a map that does not name it moves it elsewhere."""
        return main is not None and main not in self.pinned and not self.assignment.runs_on_main


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to place the open clusters."""

    problem: Problem
    where: Mapping[int, int]
    """For each cluster the number of its device."""
    main: int
    used: int
    """Devices that hold anything."""
    peak: Fraction
    """The largest share of a budget."""
    time: int = 0
    """Predicted attoseconds of a request, where `split` goes by them."""

    def rank(self) -> tuple[int, int, Fraction, int]:
        """Least time, fewest devices (`balanced` wants all), least share of a budget, lowest main device."""
        balanced = self.problem.context.policy.split == "balanced"
        return self.time, 0 if balanced else self.used, self.peak, self.main

    def solution(self) -> Solution:
        """Return the device of every unit."""
        assignment = self.problem.assignment
        device = [self.main] * len(self.problem.units)
        for at, (number, _) in assignment.pinned.items():
            device[at] = number
        for cluster, number in self.where.items():
            for at in assignment.clusters[cluster]:
                device[at] = number
        ruled = {at: rule for at, (_, rule) in assignment.pinned.items()}
        ruled.update((at, rule) for at, (rule, _) in assignment.choices.items())
        return Solution(tuple(device), assignment.offloaded, ruled, assignment.runs_on_main, self.main)


def in_context(attempt: Attempt, context: PlacementContext) -> Attempt:
    """Return an attempt that offloads something, as it is under another `split`."""
    return attempt_with(attempt.problem.under(context), attempt.main, attempt.where)


Split = Callable[[Sums, Sequence[Bin]], Ends | None]


def place(problem: Problem) -> Attempt | None:
    """Return the best attempt under the policy's `split`, or `None` where it does not all fit.

    Devices are used in the order of their ids, but under `fastest`.
    """
    if problem.context.policy.split == "fastest":
        from devpolicy._core.placement.fastest import fastest  # it imports this module

        return fastest(problem)
    split = _SPLITS[str(problem.context.policy.split)]
    found = [attempt for main in problem.mains if (attempt := _attempt(problem, main, split)) is not None]
    return min(found, key=Attempt.rank, default=None)


def place_anyhow(problem: Problem) -> Attempt | None:
    """Return any attempt that fits, as `place` without a search for the best. `split = "never"` still holds."""
    split = _single if problem.context.policy.split == "never" else solver.fill
    found = (attempt for main in problem.mains if (attempt := _attempt(problem, main, split)) is not None)
    return next(found, None)


def place_in_order(problem: Problem, order: Sequence[int]) -> Attempt | None:
    """Return an attempt with one run on each device, the devices used in `order`; `None` where it does not all fit."""
    return _attempt(problem, None, solver.fill, order)


def _attempt(problem: Problem, main: int | None, split: Split, order: Sequence[int] = ()) -> Attempt | None:
    open_, closed = problem.bins(main)
    open_ = {number: open_[number] for number in order if number in open_} or open_
    if any(one.fixed > one.budget for one in closed.values()):
        return None
    sums, first = problem.sums, 0
    if main is not None and problem.main_needs_cluster(main):
        # The first cluster runs there.
        if not problem.assignment.clusters:
            return None
        first = 1
        load = sums.load(0, 1, weights_only=open_[main].weights_only)
        open_[main] = replace(open_[main], fixed=open_[main].fixed + load)
        sums = Sums(sums.with_cache[1:], sums.weights[1:])
    bins = list(open_.values())
    ends = split(sums, bins)
    if ends is None:
        return None
    starts = [0, *ends]
    runs = list(zip(open_.items(), starts, ends, strict=False))
    used = [number for (number, one), start, end in runs if end > start or one.required]
    count = len(used) + len(closed)
    peak = Fraction(0)
    # One device of several: the lowest that has room, however full it is.
    if count > 1 or problem.context.policy.split == "balanced":
        shares = (Fraction(one.fixed, max(1, one.budget)) for one in closed.values())
        peak = max([solver.peak_of(sums, bins, ends), *shares])
    lowest = min([*used, *problem.pinned], default=next(iter(open_), 0)) if main is None else main
    where = dict.fromkeys(range(first), lowest)
    for (number, _), start, end in runs:
        where.update(dict.fromkeys(range(first + start, first + end), number))
    return Attempt(problem, where, lowest, count, peak)


def attempt_with(problem: Problem, main: int | None, where: Mapping[int, int]) -> Attempt:
    """Return the attempt that puts each cluster on the device in `where`, of all that a problem may use."""
    bins, closed = problem.bins(main)
    usable = {**problem.chosen_bins(main), **bins}
    others = {number: one for number, one in closed.items() if number not in usable}
    return attempt_of(problem, main, where, usable, others)


def attempt_of(
    problem: Problem, main: int | None, where: Mapping[int, int], bins: Mapping[int, Bin], closed: Mapping[int, Bin]
) -> Attempt:
    """Return the attempt that puts each cluster on the device in `where`, with its peak and its predicted time."""
    loads = {number: one.fixed for number, one in bins.items() if one.required}
    for cluster, number in where.items():
        load = problem.sums.load(cluster, cluster + 1, weights_only=bins[number].weights_only)
        loads[number] = loads.get(number, bins[number].fixed) + load
    shares = [Fraction(load, bins[number].budget) for number, load in loads.items() if bins[number].budget > 0]
    peak = max([*shares, *(Fraction(one.fixed, max(1, one.budget)) for one in closed.values())], default=Fraction(0))
    lowest = min([*loads, *problem.pinned], default=next(iter(bins), 0)) if main is None else main
    made = Attempt(problem, where, lowest, len(loads) + len(closed), peak)
    if problem.context.policy.split != "fastest":
        return made
    solution, context = made.solution(), problem.context
    places = {at: offload.place for at, offload in solution.offloaded.items()}
    times = context.costs.times(problem.units, solution.device, places, context.speeds, link=context.link)
    return replace(made, time=times.total)


def _single(sums: Sums, bins: Sequence[Bin]) -> Ends | None:
    """Everything open on one device: the lowest that holds it, of those in use already if one of them does."""
    if any(one.required and one.fixed > one.budget for one in bins):
        return None
    for at in sorted(range(len(bins)), key=lambda at: not bins[at].required):
        if solver.fits(sums, bins[at]):
            return [0] * at + [len(sums)] * (len(bins) - at)
    return None


def _when_needed(sums: Sums, bins: Sequence[Bin]) -> Ends | None:
    single = _single(sums, bins)
    if single is not None:
        return single
    found = solver.fewest(sums, bins, sum(not one.required for one in bins))
    if found is None:
        return None
    taken = zip(bins, [0, *found], found, strict=False)
    return solver.least_peak(sums, bins, sum(end > start and not one.required for one, start, end in taken))


_SPLITS: dict[str, Split] = {"never": _single, "when-needed": _when_needed, "balanced": solver.least_peak}
