"""Clusters packed onto devices in any order, several runs on a device.

Owns a bounded search in depth, exact where it ends before its bound: first in execution order, which stays on a device
for as long as it can, then the largest first. Where neither finds a way, one that `counting` found is dealt out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from devpolicy._core.placement.colocate import allowed_devices, holds_own_tensors
from devpolicy._core.placement.counting import are_too_much, can_be_counted, filled
from devpolicy._core.placement.search import Problem
from devpolicy._core.placement.solver import Bin

STEPS = 10_000
"""Clusters that the search of the largest first puts somewhere, at most; more for models of more clusters."""


@dataclass(slots=True)
class Packing:
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
    def of(cls, problem: Problem, main: int | None, usable: Mapping[int, Bin], open_: Mapping[int, Bin]) -> Packing:
        sums, assignment = problem.sums, problem.assignment
        rooms = {number: one.budget - one.fixed for number, one in usable.items() if one.fixed <= one.budget}
        sizes, free = [], []
        alike: dict[tuple[int, int, tuple[int, ...] | None], dict[int, int]] = {}
        each = zip(assignment.clusters, pairwise(sums.weights), pairwise(sums.with_cache), strict=True)
        for cluster, (weights_before, weights_behind), (before, behind) in each:
            allowed = allowed_devices(cluster, assignment) if assignment.choices else None
            weights, load = weights_behind - weights_before, behind - before
            found = alike.get((weights, load, allowed))
            if found is None:
                numbers = [number for number in (open_ if allowed is None else allowed) if number in rooms]
                found = {number: weights if usable[number].weights_only else load for number in numbers}
                alike[weights, load, allowed] = found
            sizes.append(found)
            free.append(allowed is None)
        clusters = assignment.clusters
        own = 0 if holds_own_tensors(problem.units) and clusters and clusters[0][:1] == (0,) else None
        used = frozenset(problem.pinned) if main is None else frozenset((*problem.pinned, main))
        return cls(sizes, free, rooms, used, main, problem.main_needs_cluster(main), own)

    def hopeless(self) -> bool:
        """Whether sums alone show that there is no way."""
        if not all(self.sizes):
            return True
        return are_too_much(self._least(), self.rooms.values())

    def _least(self) -> Counter[int]:
        """Count the clusters by the least that each takes of any device."""
        return Counter(min(sizes.values()) for sizes in self.sizes)

    def search(self) -> dict[int, int] | None:
        """Return the device of each cluster, `None` where no way was found."""
        in_order = list(range(len(self.sizes)))
        found = self._in_depth(in_order, 4 * len(in_order))
        if found is not None or not in_order:
            return found
        counts, numbers = self._least(), sorted(self.rooms)
        counted = can_be_counted(counts)
        way = filled(counts, [self.rooms[number] for number in numbers]) if counted else None
        if counted and way is None:
            return None
        largest_first = sorted(in_order, key=lambda at: (len(self.sizes[at]), -max(self.sizes[at].values())))
        found = self._in_depth(largest_first, STEPS * max(1, len(in_order) // 64))
        if found is None and way is not None:
            found = self._dealt(dict(zip(numbers, way, strict=True)))
        return None if found is None else self._in_runs(found)

    def _dealt(self, way: Mapping[int, Mapping[int, int]]) -> dict[int, int] | None:
        """Return the devices of clusters that may use all, by how many of each size each device is to hold."""
        if any(sizes.keys() != self.rooms.keys() or len({*sizes.values()}) > 1 for sizes in self.sizes):
            return None
        left = {size: [number for number in way for _ in range(way[number][size])] for size in self._least()}
        where = {at: left[min(sizes.values())].pop(0) for at, sizes in enumerate(self.sizes)}
        return where if self._is_sound(where) else None

    def completed(self, where: Mapping[int, int]) -> dict[int, int] | None:
        """Return the devices of all clusters where some are placed: the others go where the least room is left."""
        result, rooms = dict(where), dict(self.rooms)
        for at, number in where.items():
            rooms[number] -= self.sizes[at][number]
        if any(room < 0 for room in rooms.values()):
            return None
        others = sorted(set(range(len(self.sizes))).difference(where), key=lambda at: -max(self.sizes[at].values()))
        for at in others:
            fitting = [number for number, size in self.sizes[at].items() if size <= rooms[number]]
            if not fitting:
                return None
            result[at] = number = min(fitting, key=rooms.__getitem__)
            rooms[number] -= self.sizes[at][number]
        return self._in_runs(result) if self._is_sound(result) else None

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
