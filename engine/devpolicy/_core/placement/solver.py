"""Contiguous placement of a sequence on devices in a fixed order.

Owns the search: given bytes in execution order and what each device has left, which runs of the
sequence go where. Everything is in whole bytes and exact fractions, so a result is the same on every
machine. It knows neither models nor policies.

For a fixed device order, taking as much as fits on each device in turn reaches as far as any
placement can, so feasibility is greedy, and the least peak is found by bisection over the peak
(Pinar, Tabak and Aykanat, "One-dimensional partitioning for heterogeneous systems", JPDC 68, 2008).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

_BISECTIONS = 24
_FINE = 40
"""Bits of the shares that bisection tries: exact ones would grow with each halving."""


class Share(NamedTuple):
    """A share of a budget, exact and not reduced."""

    numerator: int
    denominator: int


@dataclass(frozen=True, slots=True)
class Bin:
    """One device as the solver sees it.

    A bin that takes anything also takes `fixed` (activations, pinned units); `required` bins take it in any case.
    """

    budget: int
    """Bytes that may be used in all, headroom already taken off."""
    fixed: int = 0
    required: bool = False
    weights_only: bool = False
    """Its KV cache is reserved in `fixed`, so only weights of the sequence count."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Prefix sums of a sequence's bytes: with the KV cache, and of the weights alone."""

    with_cache: list[int]
    weights: list[int]

    @classmethod
    def of(cls, resident: Sequence[int], kv_cache: Sequence[int]) -> Sums:
        """Return the prefix sums of `resident` and `kv_cache`, which run parallel."""
        both = (weight + cache for weight, cache in zip(resident, kv_cache, strict=True))
        return cls([0, *accumulate(both)], [0, *accumulate(resident)])

    def __len__(self) -> int:
        return len(self.weights) - 1

    def reach(self, start: int, room: int, *, weights_only: bool) -> int:
        """Return the end of the longest run from `start` that `room` bytes hold."""
        sums = self.weights if weights_only else self.with_cache
        return start if room < 0 else bisect_right(sums, sums[start] + room) - 1

    def load(self, start: int, end: int, *, weights_only: bool) -> int:
        """Return the bytes of the run from `start` to `end`."""
        sums = self.weights if weights_only else self.with_cache
        return sums[end] - sums[start]


Ends = list[int]
"""For each bin the end of its run; a bin whose run is empty repeats the end before it."""


def fits(sequence: Sums, one: Bin) -> bool:
    """Whether one bin holds the whole sequence."""
    return sequence.load(0, len(sequence), weights_only=one.weights_only) + one.fixed <= one.budget


def fill(sequence: Sums, bins: Sequence[Bin], peak: Share | None = None, *, below: bool = False) -> Ends | None:
    """Place the sequence greedily over all bins in order, each used up to `peak` of its budget (`below`: less than it).

    Returns `None` where it does not all fit.
    """
    at, ends = 0, []
    for one in bins:
        room = _room(one, peak, below=below)
        if room < 0 and one.required:
            return None
        at = sequence.reach(at, room, weights_only=one.weights_only)
        ends.append(at)
    return ends if at == len(sequence) else None


def _room(one: Bin, peak: Share | None, *, below: bool) -> int:
    limit = one.budget
    if peak is not None:
        scaled = peak.numerator * one.budget
        limit = min(limit, -(-scaled // peak.denominator) - 1 if below else scaled // peak.denominator)
    return limit - one.fixed


def fewest(
    sequence: Sums, bins: Sequence[Bin], count: int, peak: Share | None = None, *, below: bool = False
) -> Ends | None:
    """Place the sequence on at most `count` bins, the order kept, each used up to `peak` of its budget.

    Bins that are `required` do not count against `count`. Returns `None` where it does not fit.
    """
    rooms = [_room(one, peak, below=below) for one in bins]
    if any(one.required and room < 0 for one, room in zip(bins, rooms, strict=True)):
        return None
    # reached[k]: how far the sequence is placed by k counted bins among those seen; taken: which did it.
    reached: list[int] = [0] + [-1] * count
    taken: list[tuple[tuple[int, int], ...]] = [()] * (count + 1)
    for number, one in enumerate(bins):
        for used in range(count, -1, -1):
            before = used if one.required else used - 1
            if before < 0 or reached[before] < 0:
                continue
            end = sequence.reach(reached[before], rooms[number], weights_only=one.weights_only)
            # Only further counts, so that of equal bins the first ones are used.
            if end > reached[used]:
                reached[used], taken[used] = end, (*taken[before], (number, end))
    for used in range(count + 1):
        if reached[used] == len(sequence):
            return _ends(taken[used], len(bins))
    return None


def _ends(taken: tuple[tuple[int, int], ...], count: int) -> Ends:
    ends, at, stops = [], 0, dict(taken)
    for number in range(count):
        at = stops.get(number, at)
        ends.append(at)
    return ends


def peak_of(sequence: Sums, bins: Sequence[Bin], ends: Ends) -> Fraction:
    """Return the largest share of its budget that any bin is asked for."""
    return Fraction(*_peak(sequence, bins, ends))


def _peak(sequence: Sums, bins: Sequence[Bin], ends: Ends) -> Share:
    peak, start = Share(0, 1), 0
    for one, end in zip(bins, ends, strict=True):
        if (end > start or one.required) and one.budget > 0:  # without a budget it holds nothing, which is no peak
            load = sequence.load(start, end, weights_only=one.weights_only) + one.fixed
            if load * peak.denominator > peak.numerator * one.budget:
                peak = Share(load, one.budget)
        start = end
    return peak


def least_peak(sequence: Sums, bins: Sequence[Bin], count: int | None = None) -> Ends | None:
    """Place the sequence so that the largest share of a budget is as small as it can be, exactly.

    `count` bins are used at most (`None`: all of them). Returns `None` where it does not fit.
    """

    def attempt(peak: Share | None, *, below: bool = False) -> Ends | None:
        if count is None:
            return fill(sequence, bins, peak, below=below)
        return fewest(sequence, bins, count, peak, below=below)

    best = attempt(None)
    if best is None:
        return None
    high = _peak(sequence, bins, best)
    low = 0  # in parts of `1 << _FINE`
    for _ in range(_BISECTIONS):
        middle = (low * high.denominator + (high.numerator << _FINE)) // (2 * high.denominator)
        if middle <= low:
            break
        found = attempt(Share(middle, 1 << _FINE))
        if found is None:
            low = middle
        else:
            best, high = found, _peak(sequence, bins, found)
    # What bisection leaves open is closed exactly: ask for strictly less until there is none.
    # A sequence without bytes has a peak of nothing, which nothing is below. Ends: each peak is less than the one
    # before, and there are as many as there are runs of the sequence.
    while high.numerator > 0 and (found := attempt(high, below=True)) is not None:
        best, high = found, _peak(sequence, bins, found)
    # Nothing weighs the same everywhere: it goes first.
    return _even(sequence, bins, best, high, spread=count is None) if high.numerator > 0 else best


def _even(sequence: Sums, bins: Sequence[Bin], ends: Ends, peak: Share, *, spread: bool) -> Ends:
    """Even out the runs below the peak, which greedy filling leaves full in front and empty behind.

    Every bin of the result stays within `peak`. `spread` lets bins that hold nothing take something.
    """
    used = [spread or one.required or end > start for one, start, end in zip(bins, [0, *ends], ends, strict=False)]
    # least[i]: the smallest start from which bins i and later still reach the end within the peak.
    least = [len(sequence)] * (len(bins) + 1)
    for number in range(len(bins) - 1, -1, -1):
        room = _room(bins[number], peak, below=False) if used[number] else -1
        sums = sequence.weights if bins[number].weights_only else sequence.with_cache
        stop = least[number + 1]
        least[number] = stop if room < 0 else bisect_left(sums, sums[stop] - room, 0, stop + 1)
    left = sum(one.budget for one, use in zip(bins, used, strict=True) if use)
    result, at = [], 0
    for number, one in enumerate(bins):
        if used[number]:
            sums = sequence.weights if one.weights_only else sequence.with_cache
            furthest = sequence.reach(at, _room(one, peak, below=False), weights_only=one.weights_only)
            fair = sums[at] + (sums[-1] - sums[at]) * one.budget // max(1, left)
            nearest = bisect_left(sums, fair, at, furthest)
            if nearest > at and fair - sums[nearest - 1] < sums[nearest] - fair:
                nearest -= 1
            # The lowest device is the main one, and is never left empty for the sake of evenness.
            least_here = 1 if at == 0 and not one.required else at
            at = max(nearest, min(max(least[number + 1], least_here), furthest), at)
            left -= one.budget
        result.append(at)
    return result
