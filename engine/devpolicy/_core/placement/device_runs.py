"""The least predicted time of a sequence on devices that may stand in any order.

Owns the search behind `split = "fastest"`: each device holds one run of the sequence, equal devices are one group, and
a dynamic programme over (how much is placed, how many of each group are used) finds the least time, exactly. Costs are
whole attoseconds.

Over unlike devices in any order the least time is as hard as packing; counting equal devices once makes it small,
because real machines have few kinds. The prefix sums of time make each step a minimum over a sliding window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, compress, groupby, pairwise, product
from math import prod

from devpolicy._core.placement.solver import Sums

MOST_STEPS = 1_500_000
"""Steps of the search. Where all orders of the devices would take more, they are kept in the order of their ids."""
_MOST_FILLED = 10_000
"""Devices that are filled up, over all choices of devices, to see whether any order of them holds a sequence."""

_FAR = 1 << 200


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices that are alike."""

    numbers: tuple[int, ...]
    room: int
    """Bytes of the sequence that each may take."""
    times: Sequence[int]
    """Prefix sums of the attoseconds that each member of the sequence takes."""
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class LayerSequence:
    """The sequence: its bytes, and what runs between on devices that are given."""

    sums: Sums
    between: list[tuple[int, ...]]
    """Before each member, and behind the last: the devices of what runs there whatever the search does."""
    device_hop: int
    """Attoseconds of one hand-over."""

    def __len__(self) -> int:
        return len(self.sums)


DeviceRuns = list[tuple[int, int]]
"""The devices in the order in which they run, each with the end of its run."""


def device_runs(
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None = None, *, any_order: bool = True
) -> Iterator[tuple[int, DeviceRuns]]:
    """Yield the best runs for each choice of devices, the least time first: pairs of attoseconds and the runs.

    `must` is a device that has to run something; without `any_order` the devices follow the order of their ids.
    Nothing is yielded where nothing fits.
    """
    if any_order and prod(len(group.numbers) + 1 for group in groups) * len(groups) * (len(sequence) + 1) <= MOST_STEPS:
        yield from _in_any_order(sequence, groups, must)
    else:
        single = [
            DeviceGroup((number,), group.room, group.times, group.weights_only)
            for group in groups
            for number in group.numbers
        ]
        yield from _in_id_order(sequence, sorted(single, key=lambda group: group.numbers), must)


def holds(sums: Sums, kinds: Sequence[tuple[int, int, bool]]) -> bool:
    """Whether devices hold a sequence with one run each, in some order: `True` where there are too many to tell.

    Of each kind there are so many, of so much room, for weights only or not. Filled up, each reaches furthest.
    """
    if prod(count + 1 for count, _, _ in kinds) * len(kinds) > _MOST_FILLED:
        return True
    return _reached(sums, kinds)[-1] == len(sums)


def _choices(counts: Sequence[int]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the choices of devices: how many of each group are used, from none to all.

    A choice goes by its number, which is less by the stride of a group for one of its devices less: the strides are
    returned besides. The numbers of a choice and of the devices that it leaves add up to the last number.
    """
    strides = [prod(count + 1 for count in counts[at + 1 :]) for at in range(len(counts))]
    return list(product(*(range(count + 1) for count in counts))), strides


def _reached(sums: Sums, kinds: Sequence[tuple[int, int, bool]]) -> list[int]:
    """Return for each choice of devices how much of a sequence they hold at most, one run each, from its begin."""
    choices, strides = _choices([count for count, _, _ in kinds])
    devices = [(stride, room, weights_only) for stride, (_, room, weights_only) in zip(strides, kinds, strict=True)]
    reached: list[int] = []
    for choice, used in enumerate(choices):
        ends = [
            sums.reach(reached[choice - stride], room, weights_only=weights_only)
            for stride, room, weights_only in compress(devices, used)
        ]
        reached.append(max(ends, default=0))
    return reached


def _spans(sums: Sums, groups: Sequence[DeviceGroup]) -> list[tuple[int, int]]:
    """Return for each choice of devices the least prefix of which the others hold the rest, and the most it holds.

    What ends elsewhere is part of no whole, and in a model that fills its devices that is almost everything.
    """
    kinds = [(len(group.numbers), group.room, group.weights_only) for group in groups]
    back = Sums(*([one[-1] - sum_ for sum_ in reversed(one)] for one in (sums.with_cache, sums.weights)))
    behind = reversed(_reached(back, kinds))  # by the others of each choice
    return [(len(sums) - rest, most) for rest, most in zip(behind, _reached(sums, kinds), strict=True)]


_Step = tuple[list[int], list[int]]
"""For each prefix of the sequence the least time, and where the last run began."""

_Origin = list[tuple[int, int, _Step]]
"""The steps by which a choice of devices is reached, each with the choice before and the group of its last run."""


def _in_any_order(
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None
) -> Iterator[tuple[int, DeviceRuns]]:
    count = len(sequence)
    choices, strides = _choices([len(group.numbers) for group in groups])
    best = {0: [0] + [_FAR] * count}
    origin: dict[int, _Origin] = {}
    costs = [TransferCosts(sequence, group) for group in groups]
    devices = [*zip(range(len(groups)), groups, costs, strides, strict=True)]
    spans = _spans(sequence.sums, groups)
    needed = [number for number, group in enumerate(groups) if must is not None and must in group.numbers]
    least = _without_hops(groups)
    waiting: list[tuple[int, int, int]] = []
    total = sum(choices[-1])
    in_order = sorted(range(1, len(choices)), key=lambda choice: sum(choices[choice]))
    for used, alike in groupby(in_order, key=lambda choice: sum(choices[choice])):
        for choice in alike:
            within = range(max(1, spans[choice][0]), spans[choice][1] + 1)
            origin[choice] = [
                (choice - stride, number, _extend(best[choice - stride], sequence, group, of_run, first, within))
                for number, group, of_run, stride in compress(devices, choices[choice])
                for first, _ in (spans[choice - stride],)
            ]
            values = best[choice] = _best_of([found for _, _, (found, _) in origin[choice]], within)
            if values[count] < _FAR and all(choices[choice][number] for number in needed):
                heappush(waiting, (values[count], used, choice))
        # Of more devices each but the first begins with a hand-over.
        at_least = _FAR if used == total else least + used * sequence.device_hop
        while waiting and waiting[0][0] <= at_least:
            value, _, choice = heappop(waiting)
            yield value, _trace(origin, groups, choice, count)


def _best_of(found: Sequence[list[int]], within: range) -> list[int]:
    """Return for each prefix the least time of several ways, of which there are none outside of `within`."""
    if len(found) == 1:
        return found[0]
    best, part = [_FAR] * len(found[0]), slice(within.start, within.stop)
    best[part] = map(min, *(one[part] for one in found))
    return best


def _without_hops(groups: Sequence[DeviceGroup]) -> int:
    """Return the least time of a sequence without hand-overs: each member on its fastest device, whatever it holds."""
    if len(groups) == 1:
        return groups[0].times[-1]
    each = ([after - before for before, after in pairwise(group.times)] for group in groups)
    return sum(map(min, zip(*each, strict=True)))


def _trace(origin: dict[int, _Origin], groups: Sequence[DeviceGroup], choice: int, end: int) -> DeviceRuns:
    runs: list[tuple[int, int]] = []
    while end > 0:
        choice, number, (_, begins) = min(origin[choice], key=lambda last: last[2][0][end])
        runs.append((number, end))
        end = begins[end]
    left = [list(group.numbers) for group in groups]
    return [(left[number].pop(0), end) for number, end in reversed(runs)]


def _in_id_order(
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None
) -> Iterator[tuple[int, DeviceRuns]]:
    """As above with each device after those of lower ids, for more kinds of devices than can be tried in any order."""
    count = len(sequence)
    values = [0] + [_FAR] * count
    # For each device and end: where its run began, or that it is left out.
    taken: list[list[int | None]] = []
    for group in groups:
        found, begins = _extend(values, sequence, group, TransferCosts(sequence, group), 0, range(1, count + 1))
        here: list[int | None] = []
        for end in range(count + 1):
            use = found[end] < values[end] or must in group.numbers
            here.append(begins[end] if use else None)
            values[end] = found[end] if use else values[end]
        taken.append(here)
    if values[count] >= _FAR:
        return
    runs: DeviceRuns = []
    end = count
    for group, here in zip(reversed(groups), reversed(taken), strict=True):
        begin = here[end]
        if begin is not None:
            runs.append((group.numbers[0], end))
            end = begin
    yield values[count], runs[::-1]


class TransferCosts:
    """What a run on one group takes with its hand-overs, in parts that depend on its begin and on its end alone."""

    def __init__(self, sequence: LayerSequence, group: DeviceGroup) -> None:
        count, hop, times = len(sequence), sequence.device_hop, group.times
        mine = group.numbers[0]
        # INVARIANT: a device that `between` names is alone in its group, so one number stands for the group.
        enter = [(between[-1] != mine) if between else at > 0 for at, between in enumerate(sequence.between)]
        leave = [
            (between[0] != mine) + sum(one != other for one, other in pairwise(between)) if between else 0
            for between in sequence.between
        ]
        inside = [0] + [leave[at] + enter[at] if sequence.between[at] else 0 for at in range(1, max(1, count))]
        within = list(accumulate(inside))
        self.of_begin = [(enter[at] - within[at]) * hop - times[at] for at in range(count)]
        self.of_end = [0] + [times[at] + (within[at - 1] + leave[at]) * hop for at in range(1, count + 1)]


def _extend(
    before: list[int], sequence: LayerSequence, group: DeviceGroup, costs: TransferCosts, first: int, ends: range
) -> _Step:
    """Return the least time of the prefixes with these `ends` when one device of `group` runs their last part.

    It begins at `first` or later.
    """
    count = len(sequence)
    values, begins = [_FAR] * (count + 1), [-1] * (count + 1)
    if group.room < 0:
        return values, begins
    held = sequence.sums.weights if group.weights_only else sequence.sums.with_cache
    room, start, of_begin, of_end = group.room, ends.start, costs.of_begin, costs.of_end
    window: deque[tuple[int, int]] = deque()  # (time without the run's end, begin), the least first
    for end in range(first + 1, ends.stop):
        begin = end - 1
        if before[begin] < _FAR:
            key = before[begin] + of_begin[begin]
            while window and window[-1][0] > key:
                window.pop()
            window.append((key, begin))
        if end < start:
            continue
        least = held[end] - room
        while window and held[window[0][1]] < least:
            window.popleft()
        if window:
            key, begin = window[0]
            values[end] = key + of_end[end]
            begins[end] = begin
    return values, begins
