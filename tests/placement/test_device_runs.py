"""The search behind `split = "fastest"` against every runs of devices there is."""

from __future__ import annotations

from itertools import accumulate, combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.placement import device_runs as module
from devpolicy._core.placement.device_runs import DeviceGroup, DeviceRuns, LayerSequence, device_runs, holds
from devpolicy._core.placement.solver import Sums

World = tuple[list[int], list[int], list[list[int]], list[tuple[int, int]], int | None]
KINDS = st.tuples(st.integers(0, 30), st.integers(1, 9))


@st.composite
def sequences(draw: st.DrawFn) -> World:
    """Bytes and reads of a sequence, what stands between on device 0, the devices, and one that has to be used."""
    count = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))
    reads = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    between = draw(st.lists(st.lists(st.just(0), max_size=1), min_size=count + 1, max_size=count + 1))
    kinds = draw(st.lists(KINDS, min_size=1, max_size=2))
    devices = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    return sizes, reads, between, devices, draw(st.sampled_from((None, 0)))


def _groups(devices: list[tuple[int, int]], reads: list[int]) -> list[DeviceGroup]:
    """Device 0 alone, since things stand on it; the others with their like."""
    alike: dict[tuple[int, int], list[int]] = {}
    for number, kind in list(enumerate(devices))[1:]:
        alike.setdefault(kind, []).append(number)
    pairs = [((0,), devices[0]), *((tuple(numbers), kind) for kind, numbers in alike.items())]
    return [
        DeviceGroup(numbers, room, [0, *accumulate(rate * read for read in reads)]) for numbers, (room, rate) in pairs
    ]


def _sequence(sizes: list[int], between: list[list[int]]) -> LayerSequence:
    return LayerSequence(Sums.of(sizes, [0] * len(sizes)), [tuple(one) for one in between], 7)


def _time(
    runs: DeviceRuns, sizes: list[int], reads: list[int], between: list[list[int]], devices: list[tuple[int, int]]
) -> int | None:
    """The cost of one runs by walking along it; `None` where it does not fit."""
    walked, cost, start = [*between[0]], 0, 0
    for number, end in runs:
        room, rate = devices[number]
        if sum(sizes[start:end]) > room:
            return None
        cost += rate * sum(reads[start:end])
        for at in range(start, end):
            walked += [number, *between[at + 1]]
        start = end
    return cost + 7 * sum(one != other for one, other in pairwise(walked))


def _every_order(count: int, devices: int, *, ordered: bool) -> list[DeviceRuns]:
    result = []
    for used in range(1, min(count, devices) + 1):
        orders = combinations(range(devices), used) if ordered else permutations(range(devices), used)
        for order in orders:
            for cuts in combinations(range(1, count), used - 1):
                result.append(list(zip(order, (*cuts, count), strict=True)))
    return result


def _best(
    world: tuple[list[int], list[int], list[list[int]], list[tuple[int, int]], int | None], ordered: bool
) -> int | None:
    sizes, reads, between, devices, must = world
    times = [
        time
        for one in _every_order(len(sizes), len(devices), ordered=ordered)
        if (must is None or must in dict(one)) and (time := _time(one, sizes, reads, between, devices)) is not None
    ]
    return min(times, default=None)


def _checked(found: tuple[int, DeviceRuns] | None, world: World, *, ordered: bool) -> DeviceRuns:
    """Compare what was found with every runs, and return its devices; none where no runs holds everything."""
    sizes, reads, between, devices, _ = world
    best = _best(world, ordered=ordered)
    if found is None:
        assert best is None
        return []
    time, made = found
    assert time == best == _time(made, sizes, reads, between, devices)
    return made


@given(sequences())
def test_the_least_time_is_that_of_the_best_chain(world: World) -> None:
    sizes, reads, between, devices, must = world
    found = next(device_runs(_sequence(sizes, between), _groups(devices, reads), must), None)
    made = _checked(found, world, ordered=False)
    assert len(dict(made)) == len(made)


@given(sequences())
def test_too_many_kinds_take_the_best_chain_in_id_order(world: World) -> None:
    sizes, reads, between, devices, must = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_STEPS", 0)
        found = next(device_runs(_sequence(sizes, between), _groups(devices, reads), must), None)
    _checked(found, world, ordered=True)


@given(sequences())
def test_what_no_order_of_devices_holds_is_told_first(world: World) -> None:
    sizes, reads, between, devices, _ = world
    kinds = [(len(group.numbers), group.room, group.weights_only) for group in _groups(devices, reads)]
    best = _best((sizes, reads, between, devices, None), ordered=False)
    assert holds(Sums.of(sizes, [0] * len(sizes)), kinds) == (best is not None)


def test_of_equal_devices_the_lowest_are_used() -> None:
    sequence = _sequence([5, 5], [[], [], []])
    assert next(device_runs(sequence, [DeviceGroup((2, 3, 5), 5, [0, 1, 2])])) == (2 + 7, [(2, 1), (3, 2)])


@given(sequences())
def test_every_choice_of_devices_comes_once_fastest_first(world: World) -> None:
    sizes, reads, between, devices, must = world
    groups = _groups(devices, reads)

    def choice(runs: DeviceRuns) -> tuple[int, ...]:
        return tuple(sum(number in group.numbers for number, _ in runs) for group in groups)

    found = [(time, len(runs), choice(runs)) for time, runs in device_runs(_sequence(sizes, between), groups, must)]
    least: dict[tuple[int, ...], int] = {}
    for runs in _every_order(len(sizes), len(devices), ordered=False):
        time = _time(runs, sizes, reads, between, devices)
        if time is not None and must in (None, *dict(runs)):
            least[choice(runs)] = min(time, least.get(choice(runs), time))
    assert found == sorted((time, sum(of), of) for of, time in least.items())


def test_hand_overs_that_cost_nothing_leave_fewer_devices_first() -> None:
    sequence = LayerSequence(Sums.of([5, 5], [0, 0]), [(), (), ()], 0)
    found = list(device_runs(sequence, [DeviceGroup((0, 1), 10, [0, 1, 2])]))
    assert found == [(2, [(0, 2)]), (2, [(0, 1), (1, 2)])]


def test_the_search_ends_where_more_devices_are_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    extend = module._extend
    monkeypatch.setattr(module, "_extend", lambda *given: (tried.append(given), extend(*given))[1])
    sequence = _sequence([5] * 6, [[]] * 7)
    group = DeviceGroup(tuple(range(8)), 15, [*range(7)])
    assert next(device_runs(sequence, [group])) == (6 + 7, [(0, 3), (1, 6)])
    assert len(tried) == 2  # one device, then two, of eight
