"""The solver against every partition there is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import best_peak, loads, partitions

from devpolicy._core.placement.solver import Bin, Sums, fewest, fill, fits, least_peak, peak_of

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=7)
BUDGETS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


def _world(sizes: list[int], budgets: list[int]) -> tuple[Sums, list[Bin]]:
    return Sums.of(sizes, [0] * len(sizes)), [Bin(budget) for budget in budgets]


@given(SIZES, BUDGETS)
def test_greedy_filling_fits_exactly_when_some_partition_does(sizes: list[int], budgets: list[int]) -> None:
    sums, bins = _world(sizes, budgets)
    assert (fill(sums, bins) is not None) == (best_peak(sizes, budgets) is not None)


@given(SIZES, BUDGETS)
def test_the_least_peak_is_that_of_the_best_partition(sizes: list[int], budgets: list[int]) -> None:
    sums, bins = _world(sizes, budgets)
    ends = least_peak(sums, bins)
    wanted = best_peak(sizes, budgets)
    assert (ends is None) == (wanted is None)
    if ends is not None:
        assert peak_of(sums, bins, ends) == wanted


@given(SIZES, BUDGETS, st.integers(1, 4))
def test_the_least_peak_on_few_bins_is_the_best_partitions(sizes: list[int], budgets: list[int], most: int) -> None:
    sums, bins = _world(sizes, budgets)
    ends = least_peak(sums, bins, most)
    wanted = best_peak(sizes, budgets, most)
    assert (ends is None) == (wanted is None)
    if ends is not None:
        assert peak_of(sums, bins, ends) == wanted
        assert sum(end > start for start, end in zip([0, *ends], ends, strict=False)) <= most


@given(SIZES, st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=4), st.integers(0, 4))
def test_as_few_bins_are_used_as_in_any_partition(sizes: list[int], bins: list[tuple[int, bool]], most: int) -> None:
    sums, made = Sums.of(sizes, [0] * len(sizes)), [Bin(budget, required=required) for budget, required in bins]

    def counted(cut: Sequence[int]) -> int:
        runs = zip(made, (0, *cut), cut, strict=False)
        return sum(end > start and not one.required for one, start, end in runs)

    budgets = [budget for budget, _ in bins]
    least = min((counted(cut) for cut in partitions(len(sizes), len(bins)) if _held(sizes, cut, budgets)), default=None)
    ends = fewest(sums, made, most)
    assert (ends is None) == (least is None or least > most)
    if ends is not None:
        assert counted(ends) == least


def _held(sizes: list[int], cut: Sequence[int], budgets: list[int]) -> bool:
    return all(load <= budget for load, budget in zip(loads(sizes, cut), budgets, strict=True))


@given(SIZES, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.booleans()), min_size=1, max_size=4))
def test_no_bin_is_over_its_budget_whatever_is_fixed(sizes: list[int], bins: list[tuple[int, int, bool]]) -> None:
    sums = Sums.of(sizes, [0] * len(sizes))
    made = [Bin(budget, fixed, required) for budget, fixed, required in bins]
    for ends in (least_peak(sums, made), fewest(sums, made, len(made)), fill(sums, made)):
        if ends is None:
            continue
        assert ends == sorted(ends)
        assert ends[-1] == len(sizes)
        for one, start, end in zip(made, [0, *ends], ends, strict=False):
            if end > start or one.required:
                assert sums.load(start, end, weights_only=False) + one.fixed <= one.budget


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7), st.integers(0, 60))
def test_a_bin_with_a_reserved_cache_counts_weights_alone(sizes: list[tuple[int, int]], budget: int) -> None:
    sums = Sums.of([weight for weight, _ in sizes], [cache for _, cache in sizes])
    assert fits(sums, Bin(budget, weights_only=True)) == (sum(weight for weight, _ in sizes) <= budget)
    assert fits(sums, Bin(budget)) == (sum(map(sum, sizes)) <= budget)


def test_equal_blocks_are_spread_evenly() -> None:
    sums, bins = _world([1] * 33, [100] * 4)
    ends = least_peak(sums, bins)
    assert ends is not None
    assert sorted(end - start for start, end in zip([0, *ends], ends, strict=False)) == [8, 8, 8, 9]


def test_a_single_bin_is_used_to_its_last_byte() -> None:
    sums, bins = _world([3, 4], [7])
    assert least_peak(sums, bins) == [2]
    assert peak_of(sums, bins, [2]) == Fraction(1)
