"""Module paths with numeric ranges, `model.layers.{0..31}.mlp`, and their expansion.

Owns how a model file writes repeated blocks once: which modules a path with ranges names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

from devpolicy._core.model.limits import LARGEST_TEXT, LARGEST_TREE
from devpolicy._core.ranges import NUMBER

_SEGMENT = re.compile(rf"\{{({NUMBER})\.\.({NUMBER})\}}(?=\.|$)|([^.]+)")


class PatternError(ValueError):
    """A path that cannot be read, or entries that make no tree. `entry` is the one at fault."""

    def __init__(self, message: str, entry: int = 0) -> None:
        super().__init__(message)
        self.entry = entry


class Segment(NamedTuple):
    """One part of a path: a name, or the numbers from `first` to `last`."""

    name: str
    first: int = 0
    last: int = 0
    numeric: bool = False

    def __str__(self) -> str:
        return f"{{{self.first}..{self.last}}}" if self.numeric else self.name

    @property
    def width(self) -> int:
        """The number of its names."""
        return self.last - self.first + 1

    def names(self) -> Iterable[str]:
        """Return its names, in order."""
        return map(str, range(self.first, self.last + 1)) if self.numeric else (self.name,)


def split(pattern: str) -> list[Segment]:
    """Return a path's segments; the root's path, which is empty, has none. Raises `PatternError`."""
    segments: list[Segment] = []
    at = 0
    while at < len(pattern) or (at and at == len(pattern) and pattern[-1] == "."):
        found = _SEGMENT.match(pattern, at)
        if found is None:
            short = _short(pattern)
            raise PatternError(f"`{short}` has an empty name: names are joined by dots, a range is `{{0..31}}`")
        first, last, name = found.groups()
        segment = Segment(name) if name else Segment("", int(first), int(last), numeric=True)
        if segment.width < 1:
            raise PatternError(f"the range `{segment}` is empty")
        segments.append(segment)
        at = found.end() + 1
    return segments


def join(path: str, name: str) -> str:
    """Return the path of a child."""
    return f"{path}.{name}" if path else name


def expand_path(pattern: str) -> Iterator[str]:
    """Return every path of one pattern, the last range fastest. Raises `PatternError`."""
    segments = split(pattern)
    copies = prod(segment.width for segment in segments)
    if copies > LARGEST_TREE or copies * len(pattern) > LARGEST_TEXT:
        raise PatternError(f"`{_short(pattern)}` means {copies} modules, more than are read: {LARGEST_TREE}")
    return map(".".join, itertools.product(*(segment.names() for segment in segments)))


def expand_tree(patterns: Sequence[str]) -> list[tuple[str, int]]:
    """Return `(path, entry)` of every module in pre-order, where `entry` is the index of its pattern.

    Entries are a tree themselves: the first is the root (empty), and each other one follows its parent, written
    with the same ranges. Time and memory are linear in the result, whose size is known before it is made. Raises
    `PatternError`.
    """
    segments, parents = _link(patterns)
    copies, modules, letters = [1] * len(patterns), 0, 0
    children: list[list[int]] = [[] for _ in patterns]
    for entry, parent in enumerate(parents):
        if entry:
            copies[entry] = copies[parent] * segments[entry].width
            children[parent].append(entry)
        modules += copies[entry]
        letters += copies[entry] * len(patterns[entry])
        if modules > LARGEST_TREE or letters > LARGEST_TEXT:
            short = _short(patterns[entry])
            raise PatternError(f"with `{short}` there are {modules} modules, more than are read: {LARGEST_TREE}", entry)
    result: list[tuple[str, int]] = []
    waiting = [("", 0)] if patterns else []
    while waiting:
        path, entry = waiting.pop()
        result.append((path, entry))
        for child in reversed(children[entry]):
            names = list(segments[child].names())
            waiting += [(join(path, name), child) for name in reversed(names)]
    return result


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= 80 else pattern[:79] + "…"


def _link(patterns: Sequence[str]) -> tuple[list[Segment], list[int]]:
    """Return each entry's last segment and its parent's index, -1 for the root."""
    known: dict[str, int] = {}
    segments: list[Segment] = []
    parents: list[int] = []
    for entry, pattern in enumerate(patterns):
        try:
            parts = split(pattern)
        except PatternError as broken:
            raise PatternError(str(broken), entry) from None
        if pattern in known:
            raise PatternError(f"`{_short(pattern)}` is written twice", entry)
        if bool(parts) != bool(entry):
            raise PatternError('the first module is the root, `path = ""`, and no other is', entry)
        known[pattern] = entry
        segments.append(parts[-1] if parts else Segment(""))
        if not entry:
            parents.append(-1)
            continue
        above = pattern[: len(pattern) - len(str(parts[-1]))].removesuffix(".")
        if above not in known:
            raise PatternError(f"`{_short(above)}` is not written before its child, with the same ranges", entry)
        parents.append(known[above])
    return segments, parents
