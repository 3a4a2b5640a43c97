"""Many patterns at once, a path at a time.

Owns the compiled form of patterns: one automaton that walks down a tree of modules with all of them, so that the cost
of a module does not grow with their number, but for the width of an integer. What a pattern means is
`devpolicy._core.language.patterns`'; the tests hold both against each other.

Each segment of each pattern has a bit of one integer, and so has each pattern's end. A bit of a state is set where the
path so far leads to its segment. One step is a few operations on whole integers: those bits stay whose segment the
name passes, and move on by one; `**` also stays where it is, and lets its successor be reached without a step.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from devpolicy._core.language.patterns import Pattern, segment_regex, segments_of
from devpolicy._core.ranges import RANGE

_LARGEST = 10**18
"""Above every upper end of a range; larger numbers behave as this one."""


class Intervals:
    """Which of many intervals of numbers hold a number, as the bits of an integer."""

    def __init__(self, intervals: Iterable[tuple[int, int, int]]) -> None:
        """Take intervals as their least number, their greatest, and their own bit."""
        toggles: dict[int, int] = {}
        for least, greatest, bit in intervals:
            if least <= greatest:
                toggles[least] = toggles.get(least, 0) ^ bit
                toggles[greatest + 1] = toggles.get(greatest + 1, 0) ^ bit
        self._starts = sorted(toggles)
        self._bits = [0]
        for start in self._starts:
            self._bits.append(self._bits[-1] ^ toggles[start])

    def at(self, number: int) -> int:
        """Return the bits of the intervals that hold `number`. Logarithmic."""
        return self._bits[bisect_right(self._starts, number)]


class Matcher:
    """Patterns, compiled together. `start` is the state of the root; states and results are integers."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._stars = self._any = self._ends = self.start = 0
        self._literals: dict[str, int] = {}
        self._globs: dict[tuple[str, str], list[tuple[re.Pattern[str], int]]] = {}
        ranges: list[tuple[int, int, int]] = []
        globs: dict[str, int] = {}
        bit = 1
        self._pattern_of: list[tuple[int, int]] = []
        for number, pattern in enumerate(patterns):
            self.start |= bit
            segments = segments_of(pattern)
            for at, segment in enumerate(segments):
                found = RANGE.fullmatch(segment)
                if segment == "**":
                    if segments[at - 1 : at] == ["**"]:
                        continue  # two in a row are one
                    self._stars |= bit
                elif segment == "*":
                    self._any |= bit
                elif found is not None:
                    ranges.append((int(found[1]), int(found[2]) if found[2] else _LARGEST, bit))
                elif "*" in segment or "{" in segment:
                    globs[segment] = globs.get(segment, 0) | bit
                else:
                    self._literals[segment] = self._literals.get(segment, 0) | bit
                bit <<= 1
            self._ends |= bit
            self._pattern_of.append((bit, number))
            bit <<= 1
        self._ranges = Intervals(ranges)
        for segment, bits in globs.items():
            self._globs.setdefault(_edges(segment), []).append((re.compile(segment_regex(segment)), bits))
        self.start = self._closed(self.start)
        self._passing: dict[str, int] = {}
        self._shared: dict[int, int] = {}
        self._numbers: dict[int, tuple[int, ...]] = {}

    def step(self, state: int, segment: str) -> int:
        """Return the state of a child by the last segment of its path."""
        passing = self._passing.get(segment)
        if passing is None:
            passing = self._passing[segment] = self._bits_of(segment)
        return self._closed(((state & passing) << 1) | (state & self._stars))

    def matched(self, state: int) -> tuple[int, ...]:
        """Return the numbers of the patterns that match the path of a state."""
        ends = state & self._ends
        found = self._numbers.get(ends)
        if found is None:
            found = self._numbers[ends] = tuple(number for bit, number in self._pattern_of if ends & bit)
        return found

    def _closed(self, state: int) -> int:
        # `**` stands for nothing, too. No two of them are neighbours, so one step is enough.
        return state | ((state & self._stars) << 1)

    def _bits_of(self, segment: str) -> int:
        """Return the bits of the segments of patterns that a name passes."""
        bits = self._literals.get(segment, 0) | (self._any if segment else 0)
        if segment.isascii() and segment.isdigit() and (segment == "0" or segment[0] != "0"):
            bits |= self._ranges.at(int(segment) if len(segment) < 19 else _LARGEST)
        if self._globs:
            subject = f"{segment}."
            for edges in {(first, last) for first in ("", segment[:1]) for last in ("", segment[-1:])}:
                for regex, own in self._globs.get(edges, ()):
                    if regex.fullmatch(subject):
                        bits |= own
        # A list of thousands of modules passes few different sets: one integer for all that are alike.
        return self._shared.setdefault(bits, bits)


def _edges(segment: str) -> tuple[str, str]:
    """Return the first and the last character of every name that a segment matches, empty where they differ."""
    return ("" if segment[0] in "*{" else segment[0], "" if segment[-1] in "*}" else segment[-1])
