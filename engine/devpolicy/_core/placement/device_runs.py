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
from itertools import accumulate, pairwise, product
from math import prod
from operator import sub

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
    return _reached(sums, kinds)[tuple(count for count, _, _ in kinds)] == len(sums)


_State = tuple[int, ...]
"""How many of each group are used."""


def _reached(sums: Sums, kinds: Sequence[tuple[int, int, bool]]) -> dict[_State, int]:
    """Return for each choice of devices how much of a sequence they hold at most, one run each, from its begin."""
    reached: dict[_State, int] = {}
    for state in product(*(range(count + 1) for count, _, _ in kinds)):
        ends = (
            sums.reach(reached[_one_less(state, number)], room, weights_only=weights_only)
            for number, (_, room, weights_only) in enumerate(kinds)
            if state[number]
        )
        reached[state] = max(ends, default=0)
    return reached


def _one_less(state: _State, number: int) -> _State:
    return (*state[:number], state[number] - 1, *state[number + 1 :])


def _spans(sums: Sums, groups: Sequence[DeviceGroup]) -> dict[_State, tuple[int, int]]:
    """Return for each choice of devices the least prefix of which the others hold the rest, and the most it holds.

    What ends elsewhere is part of no whole, and in a model that fills its devices that is almost everything.
    """
    kinds = [(len(group.numbers), group.room, group.weights_only) for group in groups]
    count, every = len(sums), tuple(count for count, _, _ in kinds)
    back = Sums(*([one[-1] - sum_ for sum_ in reversed(one)] for one in (sums.with_cache, sums.weights)))
    behind = _reached(back, kinds)
    return {
        state: (count - behind[tuple(map(sub, every, state))], most) for state, most in _reached(sums, kinds).items()
    }


_Step = tuple[list[int], list[int]]
"""For each prefix of the sequence the least time, and where the last run began."""


def _in_any_order(
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None
) -> Iterator[tuple[int, DeviceRuns]]:
    count = len(sequence)
    start = (0,) * len(groups)
    best: dict[_State, list[int]] = {start: [0] + [_FAR] * count}
    origin: dict[_State, list[tuple[int, int]]] = {}
    costs = [TransferCosts(sequence, group) for group in groups]
    spans = _spans(sequence.sums, groups)
    for state in sorted(product(*(range(len(group.numbers) + 1) for group in groups)), key=lambda one: (sum(one), one)):
        if state == start:
            continue
        values, froms = [_FAR] * (count + 1), [(-1, -1)] * (count + 1)
        for number, group in enumerate(groups):
            if not state[number]:
                continue
            one_less, within = _one_less(state, number), range(max(1, spans[state][0]), spans[state][1] + 1)
            found, begins = _extend(best[one_less], sequence, group, costs[number], spans[one_less][0], within)
            for end in within:
                if found[end] < values[end]:
                    values[end], froms[end] = found[end], (number, begins[end])
        best[state], origin[state] = values, froms
    ends = [
        (values[count], sum(state), state)
        for state, values in best.items()
        if values[count] < _FAR
        and all(state[number] for number, group in enumerate(groups) if must is not None and must in group.numbers)
    ]
    for value, _, state in sorted(ends):
        yield value, _trace(origin, groups, state, count)


def _trace(
    origin: dict[_State, list[tuple[int, int]]],
    groups: Sequence[DeviceGroup],
    state: _State,
    end: int,
) -> DeviceRuns:
    runs: list[tuple[int, int]] = []
    while end > 0:
        number, begin = origin[state][end]
        runs.append((number, end))
        state = _one_less(state, number)
        end = begin
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
    """What hand-overs cost a run on one group: at its begin, at its end, and within it."""

    def __init__(self, sequence: LayerSequence, group: DeviceGroup) -> None:
        count = len(sequence)
        mine = group.numbers[0]
        # INVARIANT: a device that `between` names is alone in its group, so one number stands for the group.
        self.enter = [(between[-1] != mine) if between else at > 0 for at, between in enumerate(sequence.between)]
        self.leave = [
            (between[0] != mine) + sum(one != other for one, other in pairwise(between)) if between else 0
            for between in sequence.between
        ]
        inside = [0] + [
            self.leave[at] + self.enter[at] if sequence.between[at] else 0 for at in range(1, max(1, count))
        ]
        self.within = list(accumulate(inside))


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
    times, device_hop = group.times, sequence.device_hop
    window: deque[tuple[int, int]] = deque()  # (time without the run's end, begin), the least first
    for end in range(first + 1, ends.stop):
        begin = end - 1
        if before[begin] < _FAR:
            hops = costs.enter[begin] - costs.within[begin]
            key = before[begin] - times[begin] + hops * device_hop
            while window and window[-1][0] > key:
                window.pop()
            window.append((key, begin))
        if end < ends.start:
            continue
        least = held[end] - group.room
        while window and held[window[0][1]] < least:
            window.popleft()
        if window:
            key, begin = window[0]
            values[end] = key + times[end] + (costs.within[end - 1] + costs.leave[end]) * device_hop
            begins[end] = begin
    return values, begins
