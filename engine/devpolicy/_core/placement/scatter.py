"""Placement on devices in any order, each with as many runs as it takes.

Owns what is tried where devices in the order of their ids, with one run each, do not hold everything: a hand-over
between devices costs microseconds, an offloaded block milliseconds. It also chooses for rules that name several
devices. A bounded search in depth, exact where it ends before its bound: first in execution order, which stays on a
device for as long as it can, then the largest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations

from devpolicy._core.placement.colocate import allowed_devices, holds_own_tensors
from devpolicy._core.placement.search import Attempt, Problem, attempt_of, place, place_anyhow, place_in_order
from devpolicy._core.placement.solver import Bin

STEPS = 1_000
"""Clusters that the search of the largest first puts somewhere, at most; more for models of more clusters."""
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
    found = (attempt for main in problem.mains() if (attempt := _with_main(problem, main)) is not None)
    return next(found, None)


def _in_another_order(problem: Problem) -> Attempt | None:
    """Return an attempt with one run on each device, for a target that takes no more, `None` where none was found."""
    if problem.assignment.choices or problem.context.policy.split == "never":
        return None
    bins, _ = problem.bins(None)
    by_room = sorted(bins, key=lambda number: bins[number].budget - bins[number].fixed)
    orders = islice(permutations(by_room), _ORDERS)
    seen: set[tuple[Bin, ...]] = set()
    for order in (tuple(reversed(by_room)), *orders):
        kinds = tuple(bins[number] for number in order)
        if kinds not in seen:
            seen.add(kinds)
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
        packing = _Packing.of(problem, main, usable, bins if only is None else {only: bins[only]})
        where = None if packing.hopeless() else packing.search()
        if where is not None:
            others = {number: one for number, one in closed.items() if number not in usable}
            return attempt_of(problem, main, where, usable, others)
    return None


@dataclass(slots=True)
class _Packing:
    """Clusters to be put on devices: the bytes of each on each, and the devices that it may use."""

    sizes: list[dict[int, int]]
    """By cluster and device; the preferred device first."""
    free: list[bool]
    """Whether the order of the devices means nothing to the cluster."""
    rooms: dict[int, int]
    used: frozenset[int]
    """Devices that hold something in any case."""
    main: int | None
    main_needs_cluster: bool
    own: int | None
    """The cluster that must be on the main device, the lowest in use."""

    @classmethod
    def of(cls, problem: Problem, main: int | None, usable: Mapping[int, Bin], open_: Mapping[int, Bin]) -> _Packing:
        sums, assignment = problem.sums, problem.assignment
        rooms = {number: one.budget - one.fixed for number, one in usable.items() if one.fixed <= one.budget}
        sizes, free = [], []
        for at, cluster in enumerate(assignment.clusters):
            allowed = allowed_devices(cluster, assignment)
            numbers = [number for number in (open_ if allowed is None else allowed) if number in rooms]
            sizes.append(
                {number: sums.load(at, at + 1, weights_only=usable[number].weights_only) for number in numbers}
            )
            free.append(allowed is None)
        clusters = assignment.clusters
        own = 0 if holds_own_tensors(problem.units) and clusters and clusters[0][:1] == (0,) else None
        used = frozenset(problem.pinned) if main is None else frozenset((*problem.pinned, main))
        return cls(sizes, free, rooms, used, main, problem.main_needs_cluster(main), own)

    def hopeless(self) -> bool:
        """Whether sums alone show that there is no way."""
        if not all(self.sizes):
            return True
        least = [min(sizes.values()) for sizes in self.sizes]
        rooms = self.rooms.values()
        if sum(least) > sum(rooms):
            return True
        # As many as fit of the commonest size are no more than fit of those that are larger.
        size, _ = Counter(least).most_common(1)[0] if least else (0, 0)
        return size > 0 and sum(one >= size for one in least) > sum(room // size for room in rooms)

    def search(self) -> dict[int, int] | None:
        """Return the device of each cluster, `None` where no way was found."""
        in_order = list(range(len(self.sizes)))
        found = self._in_depth(in_order, 4 * len(in_order))
        if found is not None or not in_order:
            return found
        largest_first = sorted(in_order, key=lambda at: (len(self.sizes[at]), -max(self.sizes[at].values())))
        found = self._in_depth(largest_first, STEPS * max(1, len(in_order) // 64))
        return None if found is None else self._in_runs(found)

    def _in_depth(self, order: Sequence[int], steps: int) -> dict[int, int] | None:
        rooms, where = dict(self.rooms), dict[int, int]()
        left = [0] * (len(order) + 1)
        for depth in range(len(order) - 1, -1, -1):
            left[depth] = left[depth + 1] + min(self.sizes[order[depth]].values())
        failed: set[tuple[object, ...]] = set()
        options = [self._options(order, 0, where, rooms)] if order else []
        for _ in range(steps):
            depth = len(where)
            if depth == len(order) and self._is_sound(where):
                return where
            number = None if depth == len(order) else next(options[depth], None)
            if number is None:
                # Back to the one before, which goes elsewhere.
                if not where:
                    return None
                del options[depth:]
                at, number = where.popitem()
                rooms[number] += self.sizes[at][number]
                continue
            at = order[depth]
            where[at] = number
            rooms[number] -= self.sizes[at][number]
            state = (depth + 1, tuple(rooms.values()), where.get(self.own) if self.own is not None else None)
            if sum(rooms.values()) < left[depth + 1] or state in failed:
                del where[at]
                rooms[number] += self.sizes[at][number]
                continue
            if depth + 1 < len(order):
                failed.add(state)  # it has failed once the search comes back to it
                options.append(self._options(order, depth + 1, where, rooms))
        return None

    def _options(
        self, order: Sequence[int], depth: int, where: Mapping[int, int], rooms: dict[int, int]
    ) -> Iterator[int]:
        """Yield the devices with room for a cluster: as a rule prefers them, else the one before's first."""
        at = order[depth]
        numbers = list(self.sizes[at])
        if self.free[at] and depth:
            before = where[order[depth - 1]]
            if before in self.sizes[at]:
                numbers.remove(before)
                numbers.insert(0, before)
        return iter([number for number in numbers if self.sizes[at][number] <= rooms[number]])

    def _is_sound(self, where: Mapping[int, int]) -> bool:
        """Whether the main device is the one that the consumer takes."""
        in_use = self.used.union(where.values())
        if self.main_needs_cluster and self.main not in where.values():
            return False
        if self.main is not None and min(in_use) != self.main:
            return False
        return self.own is None or where[self.own] == min(in_use)

    def _in_runs(self, where: dict[int, int]) -> dict[int, int]:
        """Deal clusters that are alike anew, so that each device has as few runs as that allows."""
        kinds = [(tuple(sizes.items()), at == self.own) for at, sizes in enumerate(self.sizes)]
        left = Counter((kinds[at], number) for at, number in where.items())
        result: dict[int, int] = {}
        before: int | None = None
        for at, kind in enumerate(kinds):
            if before is None or not left[kind, before]:
                before = max((number for number in self.sizes[at]), key=lambda number: left[kind, number])
            left[kind, before] -= 1
            result[at] = before
        return result
