"""Small problems, exactly: where each cluster runs and which are offloaded, chosen together.

Owns a branch-and-bound over all assignments of clusters to devices and places, with several runs on a device. Under
`fastest` it looks for the least predicted time, else for the least that is transferred. It stops after a number of
steps, never after a time, so that it finds the same on every machine; what it has found by then is valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from devpolicy._core.cost.speeds import DeviceSpeed
from devpolicy._core.placement.apply_rules import Offload, storage_bytes
from devpolicy._core.placement.colocate import allowed_devices, holds_own_tensors
from devpolicy._core.placement.divide import Cluster
from devpolicy._core.placement.search import Attempt, Problem, attempt_with
from devpolicy._core.placement.solver import Bin

MOST_CLUSTERS = 10
STEPS = 20_000
_PRICED_FROM = 5
"""Clusters from which on room has a price: fewer are tried sooner than prices are found."""
_PRICE_STEPS = 40
_FINE = 16
"""Bits by which bytes that are transferred are finer than one, so that prices of room are whole numbers."""


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
    fine = 0 if problem.context.policy.split == "fastest" else _FINE
    best = None if best is None else best << fine
    for main in _mains(problem, spills=any(places.values())):
        for peak in [problem.streaming] if main is None else _peaks(problem, places):
            branch = _Branch.of(problem, places, main, peak, best if found is None else found.cost)
            if branch is not None:
                branch.run(0, 0, None)
                found = branch.found or found
    return None if found is None else replace(found, cost=found.cost >> fine)


def _peaks(problem: Problem, places: dict[int, tuple[str, ...]]) -> list[int]:
    """Return what may be brought in at once at most, the least first: the largest modules that are stored elsewhere."""
    clusters = problem.assignment.clusters
    peaks = {max(problem.units[one].onload_peak for one in clusters[at]) for at, given in places.items() if given}
    return sorted({max(problem.streaming, peak) for peak in peaks} | {problem.streaming})


def attempt_at(problem: Problem, found: ExactAssignment) -> Attempt:
    """Return the attempt of an assignment, given the problem without what is offloaded."""
    numbers = [one for one in found.where if isinstance(one, int)]
    return attempt_with(problem, found.main, dict(enumerate(numbers)))


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


@dataclass(frozen=True, slots=True)
class _Way:
    """One way for a cluster: a device, or a place that stores it."""

    one: int | str
    price: int
    load: int
    """Bytes on the device; of what is stored elsewhere, what stays on the main device: buffers and KV cache."""
    stored: int = 0


@dataclass(slots=True)
class _Branch:
    """The search with one main device, on which room is kept for the largest module that is brought in."""

    problem: Problem
    main: int | None
    ways: list[list[_Way]]
    """For each cluster what it may have, the cheapest first."""
    bins: dict[int, Bin]
    rooms: dict[int, int]
    stored: dict[str, int]
    best: int | None
    hop: int
    """What one hand-over costs at least: between clusters one behind the other there is one where devices change."""
    steps: int
    where: list[int | str] = field(default_factory=list)
    found: ExactAssignment | None = None
    least: list[int] = field(default_factory=list)
    """For each cluster and those behind it, what they cost at least."""
    priced: list[int] = field(default_factory=list)
    """The same with a price on each byte of room, from which the price of the room that is left is taken."""
    prices: dict[int | str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, problem: Problem, places: dict[int, tuple[str, ...]], main: int | None, peak: int, best: int | None
    ) -> _Branch | None:
        context, assignment = problem.context, problem.assignment
        open_, closed = problem.bins(main)
        bins = {**closed, **problem.chosen_bins(main), **open_}
        if any(one.required and one.fixed > one.budget for one in bins.values()):
            return None
        ways = []
        for at, cluster in enumerate(assignment.clusters):
            small = max(problem.units[one].onload_peak for one in cluster) <= peak
            ways.append(_ways(problem, at, places.get(at, ()) if small else (), main, bins, open_))
        if not all(ways):
            return None
        places_left = {"cpu": context.cpu.budget, "disk": context.disk.budget}
        stored = {place: budget - assignment.stored[place] for place, budget in places_left.items()}
        rooms = {number: one.budget - one.fixed for number, one in bins.items()}
        if main is not None:
            rooms[main] -= peak - problem.streaming
        made = cls(problem, main, ways, bins, rooms, stored, best, _hop(problem), STEPS)
        made.least = made._bounds()
        if len(ways) >= _PRICED_FROM:
            made._put_prices(best)
        return made

    def run(self, at: int, cost: int, before: int | None) -> None:
        """Try every way for cluster `at` and those behind it, the cheapest first; the last one runs on `before`."""
        if self.best is not None and cost + self._at_least(at) >= self.best:
            return
        if at == len(self.ways):
            self._end()
            return
        unused: set[tuple[int, DeviceSpeed, bool]] = set()
        for way in self.ways[at]:
            if self.steps <= 0:
                return
            one = way.one
            if isinstance(one, int) and one not in self.where and one != self.main and not self.bins[one].required:
                # Of devices that are alike and hold nothing one is tried.
                kind = (self.rooms[one], self.problem.context.speeds[one], self.bins[one].weights_only)
                if kind in unused:
                    continue
                unused.add(kind)
            self.steps -= 1
            if self._put(way):
                self.where.append(one)
                runs = one if isinstance(one, int) else self.main
                self.run(at + 1, cost + way.price + (self.hop if before not in (None, runs) else 0), runs)
                self.where.pop()
            self._take(way)

    def _at_least(self, at: int) -> int:
        """Return what cluster `at` and those behind it cost at least."""
        if not self.priced:
            return self.least[at]
        left = sum(price * self._room(one) for one, price in self.prices.items())
        return max(self.least[at], self.priced[at] - left)

    def _room(self, one: int | str) -> int:
        return self.rooms[one] if isinstance(one, int) else self.stored[one]

    def _charged(self, way: _Way) -> list[tuple[int | str, int]]:
        """Return what a way takes of the room of a device or a place, without what is brought in."""
        if isinstance(way.one, int):
            return [(way.one, way.load)]
        assert self.main is not None  # INVARIANT: nothing is offloaded without a main device
        return [(self.main, way.load), (way.one, way.stored)]

    def _bounds(self) -> list[int]:
        """Return for each cluster and those behind it what they cost at least, room at its prices included."""
        found = [0]
        for ways in reversed(self.ways):
            found.insert(0, found[0] + min(map(self._dear, ways)))
        return found

    def _put_prices(self, best: int | None) -> None:
        """Find prices of room by which the bound is close to the least cost: what is wanted by more than fit is dear.

        Any prices give a bound; those of a number of steps towards what the room is worth give one that is near it.
        """
        rooms: dict[int | str, int] = {key: size for one in (self.rooms, self.stored) for key, size in one.items()}
        closest, kept = self.least[0], self.prices
        target = best or max(1, 2 * closest, sum(max(way.price for way in ways) for ways in self.ways) // 8)
        prices = dict.fromkeys(rooms, 0)
        for step in range(_PRICE_STEPS):
            self.prices = prices
            wanted = dict.fromkeys(rooms, 0)
            bound = -sum(prices[one] * room for one, room in rooms.items())
            for ways in self.ways:
                chosen = min(ways, key=self._dear)
                bound += self._dear(chosen)
                for one, size in self._charged(chosen):
                    wanted[one] += size
            if bound > closest:
                closest, kept = bound, prices
            over = {one: wanted[one] - room for one, room in rooms.items()}
            norm = sum(size * size for one, size in over.items() if size > 0 or prices[one])
            if not norm or (best is not None and bound >= best):
                break
            while bound >= target:
                target *= 2
            reach = (target - bound) * (_PRICE_STEPS - step)
            prices = {one: max(0, price + reach * over[one] // (norm * _PRICE_STEPS)) for one, price in prices.items()}
        self.prices = {one: price for one, price in kept.items() if price}
        self.priced = self._bounds() if self.prices else []
        for ways in self.ways:
            ways.sort(key=self._dear)

    def _dear(self, way: _Way) -> int:
        """Return the price of a way with that of the room that it takes."""
        return way.price + sum(self.prices.get(one, 0) * size for one, size in self._charged(way))

    def _put(self, way: _Way) -> bool:
        """Charge a cluster; return whether everything has room still."""
        if isinstance(way.one, int):
            self.rooms[way.one] -= way.load
            return self.rooms[way.one] >= 0
        assert self.main is not None  # INVARIANT: as above
        self.rooms[self.main] -= way.load
        self.stored[way.one] -= way.stored
        return self.rooms[self.main] >= 0 and self.stored[way.one] >= 0

    def _take(self, way: _Way) -> None:
        """Undo what `_put` has charged."""
        if isinstance(way.one, int):
            self.rooms[way.one] += way.load
            return
        assert self.main is not None  # INVARIANT: as above
        self.rooms[self.main] += way.load
        self.stored[way.one] += way.stored

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
            return sum(
                next(way.price for way in ways if way.one == one)
                for ways, one in zip(self.ways, self.where, strict=True)
            )
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


def _hop(problem: Problem) -> int:
    """Return the cost of a hand-over, 0 where none can be told between clusters: where they are interleaved, say."""
    context, clusters = problem.context, problem.assignment.clusters
    if context.policy.split != "fastest":
        return 0
    apart = all(max(one) < min(other) for one, other in pairwise(clusters))
    # What reads nothing is handed nothing.
    read = all(any(context.costs.read(problem.units[at]) for at in cluster) for cluster in clusters)
    return context.costs.device_hop if apart and read else 0


def _ways(
    problem: Problem, at: int, places: tuple[str, ...], main: int | None, bins: dict[int, Bin], open_: dict[int, Bin]
) -> list[_Way]:
    """Return the devices and places that a cluster may have, the cheapest first."""
    context, cluster = problem.context, problem.assignment.clusters[at]
    costs = context.costs
    units = [problem.units[one] for one in cluster]
    by_time = context.policy.split == "fastest"

    def time(number: int) -> int:
        return sum(costs.time(unit, context.speeds[number]) for unit in units) if by_time else 0

    def load(number: int) -> int:
        return problem.sums.load(at, at + 1, weights_only=bins[number].weights_only)

    allowed = allowed_devices(cluster, problem.assignment)
    numbers = [number for number in (open_ if allowed is None else allowed) if number in bins]
    ways = [_Way(number, time(number), load(number)) for number in numbers]
    if main is not None:
        cache = 0 if bins[main].weights_only else sum(context.while_running(unit) for unit in units)
        kept = cache + sum(unit.buffers for unit in units)
        for place in places:
            if by_time:
                transfer = sum(costs.transfer_time(unit, place, link=context.link) for unit in units)
            else:
                transfer = sum(costs.transferred_bytes(unit) for unit in units) << _FINE
            stored = sum(storage_bytes(unit, place) for unit in units)
            ways.append(_Way(place, time(main) + transfer, kept, stored))
    return sorted(ways, key=lambda way: way.price)
