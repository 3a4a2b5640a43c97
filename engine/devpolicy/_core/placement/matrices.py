"""What rules let `overflow`, matrix by matrix, for a target that computes on the CPU and takes single tensors.

Owns which matrices leave: as few bytes as there are devices for, whichever layers they are of. A device keeps whole
layers first, then a part of the next one, and what has no room of that goes to the device of the layer behind it. A
unit stays one where all of it stays or leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from devpolicy._core.placement.apply_rules import Offload, Refused, apply_rules
from devpolicy._core.placement.colocate import colocate_blocks
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division, Unit, children_of, with_parts
from devpolicy._core.placement.leaving import Notes, choices_of
from devpolicy._core.placement.ledger import Budget, ledger_of, with_more_layers
from devpolicy._core.placement.matrix_runs import is_gate, most_kept
from devpolicy._core.placement.search import Attempt, Problem, attempt_with

_MOST_CLUSTERS = 512
_BORROWED = "no room with the rest of its layer, and `{}` has some, where the next layer is"


@dataclass(frozen=True, slots=True)
class Parts:
    """Units that may leave, in parts: what each part is, and where those go that leave."""

    division: Division
    """The division in which nothing is parted."""
    parts: Mapping[int, Sequence[Unit]]
    """For each unit that may leave, in execution order, its parts."""
    away: Mapping[int, Offload]
    """Where to, for each such unit."""
    elsewhere: Mapping[int, str]
    """The device of each part that does not stay with its layer, by where the part starts: `cpu`, or another one."""
    narrow: frozenset[int] = frozenset()
    """Devices that have gates alone of the parts: see `Activations.narrow`."""

    def moved(self, start: int, place: str | None) -> Parts:
        """Return the same with one part elsewhere, with its layer where `place` is `None`."""
        rest = {at: one for at, one in self.elsewhere.items() if at != start}
        return replace(self, elsewhere=rest if place is None else {**rest, start: place})

    def divided(self) -> tuple[Division, dict[int, Offload]]:
        """Return the division in which a unit is parted whose parts are on several devices, and what leaves."""
        places = {at: [self.elsewhere.get(one.start) for one in parts] for at, parts in self.parts.items()}
        parted = {at: self.parts[at] for at, of in places.items() if len({*of}) > 1}
        division, leaving = with_parts(self.division, parted), dict[int, Offload]()
        position = {unit.start: at for at, unit in enumerate(division.units)}
        for at, of in places.items():
            units = self.parts[at] if at in parted else self.division.units[at : at + 1]
            for unit, place in zip(units, of, strict=False):
                if place is not None:
                    leaving[position[unit.start]] = self._offload(at, place)
        return division, leaving

    def _offload(self, at: int, place: str) -> Offload:
        to = self.away[at]
        return to if place == to.place else Offload(place, to.rule, _BORROWED.format(place))

    def gone(self) -> list[tuple[int, Unit]]:
        """Return the parts that left for the CPU, each with the block of its layer: of divided units first."""
        found = [
            (at, [one for one in of if self.elsewhere.get(one.start) == self.away[at].place])
            for at, of in self.parts.items()
        ]
        found.sort(key=lambda one: len(one[1]) == len(self.parts[one[0]]))
        return [(self.division.units[at].block or 0, part) for at, of in found for part in of]


class Departure(NamedTuple):
    """An attempt, the division that it is at, and what is to be said to people."""

    division: Division
    attempt: Attempt
    notes: Notes


_Search = Callable[[Division, PlacementContext, Mapping[int, Offload]], tuple[Attempt, Notes]]


def leaving_in_parts(
    division: Division,
    order: Sequence[Mapping[int, Offload]],
    context: PlacementContext,
    search: _Search,
    search_by_layers: _Search,
) -> Departure | None:
    """Return an attempt with the fewest parts of units away that let the others fit, `None` where none was found.

    `order` is what may leave, as `leaving_first` has it. Whole units are tried too: what a device needs beside them is
    not known before, and may come out less.
    """
    every = _all_away(division, order, context)
    if every is None:
        return None
    ways = [_by_parts(every, context, search, narrow=False), _by_units(every, order, context, search_by_layers)]
    if context.sizing.activations.narrow:
        ways.append(_by_parts(every, context, search, narrow=True))
    found = [one for way in ways if way is not None and (one := _filled(*way, context, search)) is not None]
    return min(found, key=lambda one: _on_cpu(_ledger(one, context)), default=None)


def _by_parts(
    every: Parts, context: PlacementContext, search: _Search, *, narrow: bool
) -> tuple[Parts, Departure] | None:
    """Return the better of two: what several layers take may be counted before they are placed, or behind that."""
    found: list[tuple[Parts, Departure]] = []
    for several in (False, True):
        one, tries = _counted(every, context, search, narrow=narrow, several=several)
        found += [] if one is None else [one]
        if tries == 1:
            break
    return min(found, key=lambda one: _short_and_on_cpu(_ledger(one[1], context)), default=None)


def _counted(
    every: Parts, context: PlacementContext, search: _Search, *, narrow: bool, several: bool
) -> tuple[tuple[Parts, Departure] | None, int]:
    """Return what is found with the fewest parts away that are counted to fit, and after how many tries."""
    assumed, tries = context, 0
    while True:
        tries += 1
        fewest = _fewest_away(every, assumed, narrow=narrow, several=several)
        found = None if fewest is None else _attempt(fewest[0], assumed, search)
        if fewest is None or found is None:
            return None, tries
        parts, homes = fewest
        if not _within(_ledger(found, context)):
            # What takes little where it was counted may take more where it was placed.
            found = _as_counted(parts, homes, assumed) or found
        more = with_more_layers(_ledger(found, context), assumed)
        if more is None:
            return (parts, found), tries
        assumed = more


def _short_and_on_cpu(ledger: Mapping[str, Budget]) -> tuple[bool, int]:
    return not _within(ledger), _on_cpu(ledger)


def _as_counted(parts: Parts, homes: Mapping[int, int], context: PlacementContext) -> Departure | None:
    """Return the attempt with each layer on the device on which it was counted."""
    divided, leaving = parts.divided()
    within = replace(context, narrow=parts.narrow)
    try:
        assignment = colocate_blocks(divided, within, apply_rules(divided, within, leaving=leaving))
    except Refused:
        return None
    problem = Problem(divided.units, assignment, within)
    where = {
        number: homes[key]
        for number, cluster in enumerate(assignment.clusters)
        for key in (_position(divided.units[cluster[0]]),)
        if key in homes
    }
    whole = len(where) == len(assignment.clusters)
    return Departure(divided, attempt_with(problem, None, where), assignment.notes) if whole else None


def _position(unit: Unit) -> int:
    return unit.start if unit.layer is None else unit.layer


def _by_units(
    every: Parts, order: Sequence[Mapping[int, Offload]], context: PlacementContext, search: _Search
) -> tuple[Parts, Departure] | None:
    least = _least_away(every, context)
    for chosen in choices_of(order, context):
        leaving = {at: offload for offloads in chosen for at, offload in offloads.items()}
        if sum(every.division.units[at].resident for at in leaving) < least:
            continue
        starts = {part.start for at in leaving for part in every.parts[at]}
        parts = replace(every, elsewhere={at: place for at, place in every.elsewhere.items() if at in starts})
        found = _attempt(parts, context, search)
        if found is not None:
            return parts, found
    return None


def _least_away(every: Parts, context: PlacementContext) -> int:
    """Return the bytes that leave at least: what all devices have no room for together."""
    try:
        pinned = apply_rules(every.division, context, leaving=every.away).pinned
    except Refused:
        return 0
    stay = {at for at, (number, _) in pinned.items() if number == context.cpu_number} - every.away.keys()
    needs = sum(unit.resident for at, unit in enumerate(every.division.units) if at not in stay)
    rooms = (
        one.budget - context.fixed(number, beside_cpu=True)
        for number, one in enumerate(context.devices)
        if number != context.cpu_number
    )
    return needs - sum(max(0, room) for room in rooms)


def back_in_parts(
    division: Division, order: Sequence[Mapping[int, Offload]], context: PlacementContext, search: _Search
) -> Departure | None:
    """Return an attempt with all of `order` away but for the parts that have room, `None` where none was found.

    `search` may put further units on the CPU.
    """
    parts = _all_away(division, order, context)
    found = None if parts is None else _attempt(parts, context, search)
    return None if parts is None or found is None else _filled(parts, found, context, search)


def _filled(parts: Parts, found: Departure, context: PlacementContext, search: _Search) -> Departure | None:
    """Return an attempt with as much back as has room, `None` where a device is over its budget."""
    if not _within(_ledger(found, context)):
        return None
    while True:
        better = next(_with_one_back(parts, found, context, search), None)
        if better is None:
            return found
        parts, found = better


def _ledger(found: Departure, context: PlacementContext) -> Mapping[str, Budget]:
    return ledger_of(found.division.units, found.attempt.solution(), context)


def _within(ledger: Mapping[str, Budget]) -> bool:
    return all(one.free >= 0 for one in ledger.values())


def _on_cpu(ledger: Mapping[str, Budget]) -> int:
    return ledger["cpu"].weights if "cpu" in ledger else 0


def _attempt(parts: Parts, context: PlacementContext, search: _Search) -> Departure | None:
    divided, leaving = parts.divided()
    try:
        return Departure(divided, *search(divided, replace(context, narrow=parts.narrow), leaving))
    except Refused:
        return None


def _with_one_back(
    parts: Parts, found: Departure, context: PlacementContext, search: _Search
) -> Iterator[tuple[Parts, Departure]]:
    """Yield attempts with one part less on the CPU: with its layer, or with the next layer, on another device.

    What a layer hands on goes to the device of the next one anyway.
    """
    solution, ledger = found.attempt.solution(), _ledger(found, context)
    home: dict[int, int] = {}
    for unit, number in zip(found.division.units, solution.device, strict=True):
        if unit.is_block or unit.block is not None:
            home.setdefault(unit.start if unit.block is None else unit.block, number)
    following = dict(pairwise(sorted(home)))
    for number in sorted(context.open):
        device = str(context.devices[number])
        room = ledger[device].free if device in ledger else 0
        own = [(part, None) for block, part in parts.gone() if home[block] == number and part.weights <= room]
        # The others of its own layers are not smaller; but gates may take fewer activations.
        own = [*own[:1], *[one for one in own[1:] if is_gate(one[0])][:1]]
        before = [
            (part, device)
            for block, part in parts.gone()
            if home[block] not in (number, context.cpu_number) and home.get(following.get(block, block)) == number
        ]
        for part, place in (*own, *reversed(before)):
            if part.weights <= room:
                other = parts.moved(part.start, place)
                tried = _attempt(other, context, search)
                after = ledger if tried is None else _ledger(tried, context)
                if tried is not None and _on_cpu(after) < _on_cpu(ledger) and _within(after):
                    yield other, tried


def _fewest_away(
    every: Parts, context: PlacementContext, *, narrow: bool, several: bool
) -> tuple[Parts, Mapping[int, int]] | None:
    """Return which parts leave for the others to fit on the devices in the order of their ids; `None` if none do.

    With them the device of each layer. `narrow` and `several` are those of `most_kept`.
    """
    division, away, parts = every.division, every.away, every.parts
    try:
        ruled = apply_rules(division, context, leaving=away)
        problem = Problem(division.units, colocate_blocks(division, context, ruled), context)
    except Refused:
        return None
    clusters = problem.assignment.clusters
    if problem.assignment.choices or len(clusters) > _MOST_CLUSTERS:
        return None
    of_block = {division.units[at].block: number for number, cluster in enumerate(clusters) for at in cluster}
    optional: list[list[Unit]] = [[] for _ in clusters]
    for at, of in parts.items():
        number = of_block.get(division.units[at].block)
        if number is not None:
            optional[number] = [*optional[number], *of]
    runs = most_kept(problem, optional, narrow=narrow, several=several)
    if runs is None:
        return None
    elsewhere = dict(every.elsewhere)
    for run in runs:
        room, passed = run.left, {part.start for part in run.passed}
        for part in (part for of in optional[run.begin : run.end] for part in of):
            if part.weights <= room and part.start not in passed and (is_gate(part) or not run.narrow):
                room -= part.weights
                del elsewhere[part.start]
        elsewhere |= {part.start: str(context.devices[run.device]) for part in run.received}
    homes = {
        _position(division.units[at]): run.device
        for run in runs
        for cluster in clusters[run.begin : run.end]
        for at in cluster
    }
    return replace(every, elsewhere=elsewhere, narrow=frozenset(run.device for run in runs if run.narrow)), homes


def _all_away(division: Division, order: Sequence[Mapping[int, Offload]], context: PlacementContext) -> Parts | None:
    """Return all that may leave in parts, all of it away; `None` where whole layers or the head may."""
    away = {at: offload for offloads in order for at, offload in offloads.items()}
    if any(division.units[at].block is None for at in away):
        return None
    parts = {at: _in_order(children_of(division.units[at], context.tree, context.sizing)) for at in sorted(away)}
    return Parts(division, parts, away, {part.start: away[at].place for at, of in parts.items() for part in of})


def _in_order(parts: Sequence[Unit]) -> list[Unit]:
    """Return parts in the order in which they are kept: gates first, and what makes a layer's output last.

    Where the others compute on the CPU, gates take the fewest activations.
    """
    return sorted(parts, key=lambda part: ("down" in part.path.rpartition(".")[2], not is_gate(part)))
