"""Clusters packed onto devices, against every way there is."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.placement.counting import filled
from devpolicy._core.placement.packing import Packing


def _packing(sizes: list[int], rooms: list[int]) -> Packing:
    numbered = dict(enumerate(rooms))
    each = [dict.fromkeys(numbered, size) for size in sizes]
    return Packing(each, [True] * len(sizes), numbered, frozenset(), None, main_needs_cluster=False, own=None)


def _fits(sizes: list[int], rooms: list[int], where: tuple[int, ...]) -> bool:
    loads = [sum(size for size, at in zip(sizes, where, strict=True) if at == number) for number in range(len(rooms))]
    return all(load <= room for load, room in zip(loads, rooms, strict=True))


@given(
    st.lists(st.sampled_from((0, 1, 2, 3, 5, 7)), min_size=1, max_size=7),
    st.lists(st.integers(0, 16), min_size=1, max_size=3),
)
def test_a_packing_is_found_where_there_is_one(sizes: list[int], rooms: list[int]) -> None:
    possible = any(_fits(sizes, rooms, where) for where in product(range(len(rooms)), repeat=len(sizes)))
    packing = _packing(sizes, rooms)
    found = packing.search()
    assert (found is not None) == possible
    assert found is None or _fits(sizes, rooms, tuple(found[at] for at in range(len(sizes))))
    assert not (packing.hopeless() and possible)


@given(
    st.lists(st.sampled_from((1, 2, 3, 5, 7)), min_size=1, max_size=7),
    st.lists(st.integers(0, 16), min_size=1, max_size=3),
)
def test_what_is_counted_is_what_every_way_says(sizes: list[int], rooms: list[int]) -> None:
    counts = Counter(sizes)
    way = filled(counts, rooms)
    assert (way is not None) == any(_fits(sizes, rooms, one) for one in product(range(len(rooms)), repeat=len(sizes)))
    if way is not None:
        held = [sum(size * count for size, count in one.items()) for one in way]
        assert all(size <= room for size, room in zip(held, rooms, strict=True))
        assert sum(map(Counter, way), Counter()) == counts


def test_what_counting_finds_is_dealt_out() -> None:
    # Of the 60 places for the commonest, each of the larger ones takes one where it is put well, and up to three else.
    sizes, rooms = [1_556] + [992] * 58 + [1_556], [22_410, 22_773, 10_146, 6_200]
    where = _packing(sizes, rooms).search()
    assert where is not None
    assert _fits(sizes, rooms, tuple(where[at] for at in range(len(sizes))))


def test_what_equal_ones_leave_over_is_too_little() -> None:
    # Eight of ten leave 5 bytes in each room: 10 in all, and no place for 6.
    assert _packing([10] * 8 + [6], [45, 45]).hopeless()
    assert not _packing([10] * 8 + [5, 5], [45, 45]).hopeless()
