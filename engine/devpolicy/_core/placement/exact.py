"""Small problems, exactly: where each cluster runs and which are offloaded, chosen together.

Owns a branch-and-bound over all assignments of clusters to devices and places, with several runs on a device. Under
`fastest` it looks for the least predicted time, else for the least that is transferred. It stops after a number of
steps, never after a time, so that it finds the same on every machine; what it has found by then is valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from devpolicy._core.cost.speeds import DeviceSpeed
from devpolicy._core.placement.apply_rules import Offload, storage_bytes
from devpolicy._core.placement.colocate import allowed_devices, holds_own_tensors
from devpolicy._core.placement.divide import Cluster
from devpolicy._core.placement.search import Attempt, Problem, attempt_of
from devpolicy._core.placement.solver import Bin

MOST_CLUSTERS = 10
STEPS = 8_000


@dataclass(frozen=True, slots=True)
class ExactAssignment:
    """The best assignment: for each cluster the number of its device, or the place that stores it."""

    where: tuple[int | str, ...]
    main: int | None
    cost: int


def search(problem: Problem, places: dict[int, tuple[str, ...]], best: int | None) -> ExactAssignment | None:
    """Return an assignment that costs less than `best`, `None` where there is none or the problem is not small.

    `places` are by cluster where it may be stored, in the order of `overflow`. The cost is in attoseconds of a request
    under `fastest`, else in bytes that are transferred.
    """
    if len(problem.assignment.clusters) > MOST_CLUSTERS or problem.context.policy.split == "never":
        return None
    found: ExactAssignment | None = None
    steps = STEPS
    for main in _mains(problem, spills=any(places.values())):
        branch = _Branch.of(problem, places, main, best if found is None else found.cost, steps)
        if branch is not None:
            branch.run(0, 0)
            found, steps = branch.found or found, branch.steps
    return found


def attempt_at(problem: Problem, found: ExactAssignment) -> Attempt:
    """Return the attempt of an assignment, given the problem without what is offloaded."""
    bins, closed = problem.bins(found.main)
    usable = {**problem.chosen_bins(found.main), **bins}
    numbers = [one for one in found.where if isinstance(one, int)]
    others = {number: one for number, one in closed.items() if number not in usable}
    return attempt_of(problem, found.main, dict(enumerate(numbers)), usable, others)


def offloads_of(
    problem: Problem, found: ExactAssignment, rule: str, reason: str
) -> tuple[list[Cluster], dict[int, Offload]]:
    """Return the clusters that an assignment offloads, and the offload of each of their units."""
    pairs = zip(problem.assignment.clusters, found.where, strict=True)
    gone = [(cluster, place) for cluster, place in pairs if isinstance(place, str)]
    offloads = {at: Offload(place, rule, reason.format(place)) for cluster, place in gone for at in cluster}
    return [cluster for cluster, _ in gone], offloads


def _mains(problem: Problem, *, spills: bool) -> Iterator[int | None]:
    if not problem.needs_main:
        yield None
    if problem.needs_main or spills:
        yield from problem.main_candidates()


@dataclass(slots=True)
class _Branch:
    """The search with one main device."""

    problem: Problem
    main: int | None
    options: list[list[tuple[int | str, int]]]
    """For each cluster the devices and places that it may have, each with what that costs."""
    least: list[int]
    """For each cluster and those behind it, what they cost at least."""
    bins: dict[int, Bin]
    rooms: dict[int, int]
    stored: dict[str, int]
    best: int | None
    steps: int
    where: list[int | str] = field(default_factory=list)
    peak: int = 0
    found: ExactAssignment | None = None

    @classmethod
    def of(
        cls, problem: Problem, places: dict[int, tuple[str, ...]], main: int | None, best: int | None, steps: int
    ) -> _Branch | None:
        context, assignment = problem.context, problem.assignment
        open_, closed = problem.bins(main)
        bins = {**closed, **problem.chosen_bins(main), **open_}
        if any(one.required and one.fixed > one.budget for one in bins.values()):
            return None
        options = [
            _options(problem, at, places.get(at, ()), main, bins, open_) for at in range(len(assignment.clusters))
        ]
        if not all(options):
            return None
        least = [0]
        for one in reversed(options):
            least.insert(0, least[0] + min(cost for _, cost in one))
        places_left = {"cpu": context.cpu.budget, "disk": context.disk.budget}
        stored = {place: budget - assignment.stored[place] for place, budget in places_left.items()}
        rooms = {number: one.budget - one.fixed for number, one in bins.items()}
        return cls(problem, main, options, least, bins, rooms, stored, best, steps, peak=problem.streaming)

    def run(self, at: int, cost: int) -> None:
        """Try every way for cluster `at` and those behind it, the cheapest first."""
        if self.best is not None and cost + self.least[at] >= self.best:
            return
        if at == len(self.options):
            self._end()
            return
        unused: set[tuple[int, DeviceSpeed, bool]] = set()
        for one, price in self.options[at]:
            if self.steps <= 0:
                return
            if isinstance(one, int) and one not in self.where and one != self.main and not self.bins[one].required:
                # Of devices that are alike and hold nothing one is tried.
                kind = (self.rooms[one], self.problem.context.speeds[one], self.bins[one].weights_only)
                if kind in unused:
                    continue
                unused.add(kind)
            self.steps -= 1
            before = self.peak
            if self._put(at, one):
                self.where.append(one)
                self.run(at + 1, cost + price)
                self.where.pop()
            self._take(at, one, before)

    def _put(self, at: int, one: int | str) -> bool:
        """Charge a cluster; return whether everything has room still."""
        units = [self.problem.units[unit] for unit in self.problem.assignment.clusters[at]]
        if isinstance(one, int):
            self.rooms[one] -= self.problem.sums.load(at, at + 1, weights_only=self.bins[one].weights_only)
            return self.rooms[one] >= 0
        assert self.main is not None  # INVARIANT: nothing is offloaded without a main device
        peak = max(self.peak, *(unit.onload_peak for unit in units))
        self.rooms[self.main] -= self._kept(at) + peak - self.peak
        self.peak = peak
        self.stored[one] -= sum(storage_bytes(unit, one) for unit in units)
        return self.rooms[self.main] >= 0 and self.stored[one] >= 0

    def _take(self, at: int, one: int | str, peak: int) -> None:
        """Undo what `_put` has charged."""
        units = [self.problem.units[unit] for unit in self.problem.assignment.clusters[at]]
        if isinstance(one, int):
            self.rooms[one] += self.problem.sums.load(at, at + 1, weights_only=self.bins[one].weights_only)
            return
        assert self.main is not None  # INVARIANT: as above
        self.rooms[self.main] += self._kept(at) + self.peak - peak
        self.peak = peak
        self.stored[one] += sum(storage_bytes(unit, one) for unit in units)

    def _kept(self, at: int) -> int:
        """Bytes that stay on the main device of a cluster that is offloaded: buffers and KV cache."""
        units = [self.problem.units[unit] for unit in self.problem.assignment.clusters[at]]
        main = self.bins[self.main] if self.main is not None else None
        cache = 0 if main is None or main.weights_only else sum(unit.kv_cache for unit in units)
        return cache + sum(unit.buffers for unit in units)

    def _end(self) -> None:
        in_use = {one for one in self.where if isinstance(one, int)} | set(self.problem.pinned)
        away = any(isinstance(one, str) for one in self.where)
        main = self.main
        if main is not None and main not in in_use and not self.problem.assignment.runs_on_main:
            return  # the map has to name it
        if main is not None and not (away or self.problem.needs_main):
            return  # found without a main device
        lowest = min(in_use, default=main)
        if holds_own_tensors(self.problem.units) and self.where and 0 in self.problem.assignment.clusters[0]:
            on = main if isinstance(self.where[0], str) else self.where[0]
            if on != (lowest if main is None else main):
                return
        cost = self._cost()
        if self.best is None or cost < self.best:
            self.best = cost
            self.found = ExactAssignment(tuple(self.where), main, cost)

    def _cost(self) -> int:
        """Return the whole cost: under `fastest` with hand-overs, which depend on what rules run between."""
        problem, context = self.problem, self.problem.context
        if context.policy.split != "fastest":
            return sum(dict(options)[one] for options, one in zip(self.options, self.where, strict=True))
        lowest = min((one for one in self.where if isinstance(one, int)), default=0)
        main = lowest if self.main is None else self.main
        runs_on = [main] * len(problem.units)
        for at, (number, _) in problem.assignment.pinned.items():
            runs_on[at] = number
        places = {at: offload.place for at, offload in problem.assignment.offloaded.items()}
        for cluster, one in zip(problem.assignment.clusters, self.where, strict=True):
            for at in cluster:
                if isinstance(one, int):
                    runs_on[at] = one
                else:
                    places[at] = one
        return context.costs.times(problem.units, runs_on, places, context.speeds, link=context.link).total


def _options(
    problem: Problem, at: int, places: tuple[str, ...], main: int | None, bins: dict[int, Bin], open_: dict[int, Bin]
) -> list[tuple[int | str, int]]:
    """Return the devices and places that a cluster may have, each with its cost, the cheapest first."""
    context, cluster = problem.context, problem.assignment.clusters[at]
    costs = context.costs
    units = [problem.units[one] for one in cluster]
    by_time = context.policy.split == "fastest"

    def time(number: int) -> int:
        return sum(costs.time(unit, context.speeds[number]) for unit in units) if by_time else 0

    allowed = allowed_devices(cluster, problem.assignment)
    numbers = [number for number in (open_ if allowed is None else allowed) if number in bins]
    options: list[tuple[int | str, int]] = [(number, time(number)) for number in numbers]
    if main is not None:
        for place in places:
            if by_time:
                transfer = sum(costs.transfer_time(unit, place, link=context.link) for unit in units)
            else:
                transfer = sum(costs.transferred_bytes(unit) for unit in units)
            options.append((place, time(main) + transfer))
    return sorted(options, key=lambda way: way[1])
