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

from devpolicy._core.placement.solver import Sums

MOST_STEPS = 1_500_000
"""Steps of the search. Where all orders of the devices would take more, they are kept in the order of their ids."""

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
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None = None
) -> Iterator[tuple[int, DeviceRuns]]:
    """Yield the best runs for each choice of devices, the least time first: pairs of attoseconds and the runs.

    `must` is a device that has to run something. Nothing is yielded where nothing fits.
    """
    if prod(len(group.numbers) + 1 for group in groups) * len(groups) * (len(sequence) + 1) <= MOST_STEPS:
        yield from _in_any_order(sequence, groups, must)
    else:
        single = [
            DeviceGroup((number,), group.room, group.times, group.weights_only)
            for group in groups
            for number in group.numbers
        ]
        yield from _in_id_order(sequence, sorted(single, key=lambda group: group.numbers), must)


_Step = tuple[list[int], list[int]]
"""For each prefix of the sequence the least time, and where the last run began."""


def _in_any_order(
    sequence: LayerSequence, groups: Sequence[DeviceGroup], must: int | None
) -> Iterator[tuple[int, DeviceRuns]]:
    count = len(sequence)
    start = (0,) * len(groups)
    best: dict[tuple[int, ...], list[int]] = {start: [0] + [_FAR] * count}
    origin: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    costs = [TransferCosts(sequence, group) for group in groups]
    for state in sorted(product(*(range(len(group.numbers) + 1) for group in groups)), key=lambda one: (sum(one), one)):
        if state == start:
            continue
        values, froms = [_FAR] * (count + 1), [(-1, -1)] * (count + 1)
        for number, group in enumerate(groups):
            if not state[number]:
                continue
            before = best[(*state[:number], state[number] - 1, *state[number + 1 :])]
            found, begins = _extend(before, sequence, group, costs[number])
            for end in range(1, count + 1):
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
    origin: dict[tuple[int, ...], list[tuple[int, int]]],
    groups: Sequence[DeviceGroup],
    state: tuple[int, ...],
    end: int,
) -> DeviceRuns:
    runs: list[tuple[int, int]] = []
    while end > 0:
        number, begin = origin[state][end]
        runs.append((number, end))
        state = (*state[:number], state[number] - 1, *state[number + 1 :])
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
        found, begins = _extend(values, sequence, group, TransferCosts(sequence, group))
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


def _extend(before: list[int], sequence: LayerSequence, group: DeviceGroup, costs: TransferCosts) -> _Step:
    """Return the least time of each prefix when one device of `group` runs its last part."""
    count = len(sequence)
    values, begins = [_FAR] * (count + 1), [-1] * (count + 1)
    if group.room < 0:
        return values, begins
    held = sequence.sums.weights if group.weights_only else sequence.sums.with_cache
    times, device_hop = group.times, sequence.device_hop
    window: deque[tuple[int, int]] = deque()  # (time without the run's end, begin), the least first
    for end in range(1, count + 1):
        begin = end - 1
        if before[begin] < _FAR:
            hops = costs.enter[begin] - costs.within[begin]
            key = before[begin] - times[begin] + hops * device_hop
            while window and window[-1][0] > key:
                window.pop()
            window.append((key, begin))
        least = held[end] - group.room
        while window and held[window[0][1]] < least:
            window.popleft()
        if window:
            key, begin = window[0]
            values[end] = key + times[end] + (costs.within[end - 1] + costs.leave[end]) * device_hop
            begins[end] = begin
    return values, begins
