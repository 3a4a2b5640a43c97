"""The least predicted time of a sequence on devices that may stand in any order.

Owns the search behind `split = "fastest"`: each device holds one run of the sequence, equal devices are one lane, and a
dynamic programme over (how much is placed, how many of each lane are used) finds the least time, exactly. Costs are
whole attoseconds. It knows neither models nor policies.

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
class Lane:
    """Devices that are alike."""

    numbers: tuple[int, ...]
    room: int
    """Bytes of the sequence that each may take."""
    rate: int
    """Attoseconds that reading one byte takes."""
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class Road:
    """The sequence: its bytes, what is read of it over a request, and what runs between on seats that are given."""

    sums: Sums
    read: list[int]
    """Prefix sums of bytes that are read."""
    anchors: list[tuple[int, ...]]
    """Before each member, and behind the last: the seats of what runs there whatever the search does."""
    crossing: int
    """Attoseconds of one crossing."""

    def __len__(self) -> int:
        return len(self.sums)


Chain = list[tuple[int, int]]
"""The devices in the order in which they run, each with the end of its run."""


def chains(road: Road, lanes: Sequence[Lane], must: int | None = None) -> Iterator[tuple[int, Chain]]:
    """Yield the best chain for each choice of devices, the least time first: pairs of attoseconds and the chain.

    `must` is a device that has to run something. Nothing is yielded where nothing fits.
    """
    if prod(len(lane.numbers) + 1 for lane in lanes) * len(lanes) * (len(road) + 1) <= MOST_STEPS:
        yield from _any_order(road, lanes, must)
    else:
        single = [Lane((number,), lane.room, lane.rate, lane.weights_only) for lane in lanes for number in lane.numbers]
        yield from _in_order(road, sorted(single, key=lambda lane: lane.numbers), must)


_Step = tuple[list[int], list[int]]
"""For each prefix of the sequence the least time, and where the last run began."""


def _any_order(road: Road, lanes: Sequence[Lane], must: int | None) -> Iterator[tuple[int, Chain]]:
    count = len(road)
    start = (0,) * len(lanes)
    best: dict[tuple[int, ...], list[int]] = {start: [0] + [_FAR] * count}
    origin: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    tolls = [_Tolls(road, lane) for lane in lanes]
    for state in sorted(product(*(range(len(lane.numbers) + 1) for lane in lanes)), key=lambda one: (sum(one), one)):
        if state == start:
            continue
        values, froms = [_FAR] * (count + 1), [(-1, -1)] * (count + 1)
        for number, lane in enumerate(lanes):
            if not state[number]:
                continue
            before = best[(*state[:number], state[number] - 1, *state[number + 1 :])]
            found, begins = _extend(before, road, lane, tolls[number])
            for end in range(1, count + 1):
                if found[end] < values[end]:
                    values[end], froms[end] = found[end], (number, begins[end])
        best[state], origin[state] = values, froms
    ends = [
        (values[count], sum(state), state)
        for state, values in best.items()
        if values[count] < _FAR
        and all(state[number] for number, lane in enumerate(lanes) if must is not None and must in lane.numbers)
    ]
    for value, _, state in sorted(ends):
        yield value, _trace(origin, lanes, state, count)


def _trace(
    origin: dict[tuple[int, ...], list[tuple[int, int]]], lanes: Sequence[Lane], state: tuple[int, ...], end: int
) -> Chain:
    runs: list[tuple[int, int]] = []
    while end > 0:
        number, begin = origin[state][end]
        runs.append((number, end))
        state = (*state[:number], state[number] - 1, *state[number + 1 :])
        end = begin
    left = [list(lane.numbers) for lane in lanes]
    return [(left[number].pop(0), end) for number, end in reversed(runs)]


def _in_order(road: Road, lanes: Sequence[Lane], must: int | None) -> Iterator[tuple[int, Chain]]:
    """As above with each device after those of lower ids, for more kinds of devices than can be tried in any order."""
    count = len(road)
    values = [0] + [_FAR] * count
    # For each device and end: where its run began, or that it is left out.
    taken: list[list[int | None]] = []
    for lane in lanes:
        found, begins = _extend(values, road, lane, _Tolls(road, lane))
        here: list[int | None] = []
        for end in range(count + 1):
            use = found[end] < values[end] or must in lane.numbers
            here.append(begins[end] if use else None)
            values[end] = found[end] if use else values[end]
        taken.append(here)
    if values[count] >= _FAR:
        return
    chain: Chain = []
    end = count
    for lane, here in zip(reversed(lanes), reversed(taken), strict=True):
        begin = here[end]
        if begin is not None:
            chain.append((lane.numbers[0], end))
            end = begin
    yield values[count], chain[::-1]


class _Tolls:
    """What crossings cost a run on one lane: at its begin, at its end, and within it."""

    def __init__(self, road: Road, lane: Lane) -> None:
        count = len(road)
        mine = lane.numbers[0]
        # INVARIANT: a seat that anchors name is alone in its lane, so one number speaks for the lane.
        self.enter = [(anchors[-1] != mine) if anchors else at > 0 for at, anchors in enumerate(road.anchors)]
        self.leave = [
            (anchors[0] != mine) + sum(one != other for one, other in pairwise(anchors)) if anchors else 0
            for anchors in road.anchors
        ]
        inside = [0] + [self.leave[at] + self.enter[at] if road.anchors[at] else 0 for at in range(1, max(1, count))]
        self.within = list(accumulate(inside))


def _extend(before: list[int], road: Road, lane: Lane, tolls: _Tolls) -> _Step:
    """Return the least time of each prefix when one device of `lane` runs its last part."""
    count = len(road)
    values, begins = [_FAR] * (count + 1), [-1] * (count + 1)
    if lane.room < 0:
        return values, begins
    held = road.sums.weights if lane.weights_only else road.sums.with_cache
    read, rate, crossing = road.read, lane.rate, road.crossing
    window: deque[tuple[int, int]] = deque()  # (time without the run's end, begin), the least first
    for end in range(1, count + 1):
        begin = end - 1
        if before[begin] < _FAR:
            toll = tolls.enter[begin] - tolls.within[begin]
            key = before[begin] - rate * read[begin] + toll * crossing
            while window and window[-1][0] > key:
                window.pop()
            window.append((key, begin))
        least = held[end] - lane.room
        while window and held[window[0][1]] < least:
            window.popleft()
        if window:
            key, begin = window[0]
            values[end] = key + rate * read[end] + (tolls.within[end - 1] + tolls.leave[end]) * crossing
            begins[end] = begin
    return values, begins
