"""Which rules match which modules of a tree.

Owns the answer for all rules and all modules at once, in time linear in the modules: patterns are walked down the tree
together, classes are looked at once each, sizes are looked up. It knows no host, and not which rule decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from operator import or_

from devpolicy._core.language.comparisons import SizeTest
from devpolicy._core.language.matcher import Intervals, Matcher
from devpolicy._core.language.policy import Rule
from devpolicy._core.model.tree import ModelTree

_LARGEST = 1 << 70
"""Above every size."""


@dataclass(slots=True)
class Matches:
    """The rules that match each module, as the bits of integers: bit `n` is rule `n`."""

    own: list[int]
    """By the module itself. All of the rule's tests hold for it."""
    counts: dict[int, int]
    """For each rule that matches anything: how many modules."""


def match(tree: ModelTree, rules: Sequence[Rule], sizes: Sequence[int], natural: Sequence[bool]) -> Matches:
    """Match `rules` against every module.

    `sizes` are the bytes of each module's subtree, needed where a rule asks for them. A rule that goes by size alone
    applies to placement units (`natural`): every container would pass otherwise.
    """
    if not rules:
        return Matches([0] * len(tree.modules), {})
    bits = [1 << number for number in range(len(rules))]
    everything = (1 << len(rules)) - 1
    unnamed = sum(bit for bit, rule in zip(bits, rules, strict=True) if not rule.match)
    by_size = sum(bit for bit, rule in zip(bits, rules, strict=True) if not rule.match and not rule.module_class)
    sized = [(*_interval(rule.size), bit) for bit, rule in zip(bits, rules, strict=True) if rule.size is not None]
    unsized = everything - sum(bit for _, _, bit in sized)
    tested = Intervals(sized) if sized else None
    of_class = {cls: _of_class(cls, rules) for cls in {module.class_name for module in tree.modules}}
    own: list[int] = []
    for position, named in enumerate(_named(tree, rules)):
        matched = (named | unnamed) & of_class[tree.modules[position].class_name]
        if matched and tested is not None:
            matched &= unsized | tested.at(sizes[position])
        own.append(matched if natural[position] else matched & ~by_size)
    counts: Counter[int] = Counter()
    for mask, count in Counter(own).items():
        for number in numbers(mask):
            counts[number] += count
    return Matches(own, dict(sorted(counts.items())))


def numbers(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _of_class(cls: str, rules: Sequence[Rule]) -> int:
    """Return the rules that a module of this class can be matched by."""
    meant = (not rule.module_class or any(fnmatchcase(cls, glob) for glob in rule.module_class) for rule in rules)
    return sum(1 << number for number, holds in enumerate(meant) if holds)


def _interval(test: SizeTest) -> tuple[int, int]:
    """Return the least and the greatest size that passes a test."""
    size = test.value
    return {
        ">=": (size, _LARGEST),
        ">": (size + 1, _LARGEST),
        "<=": (0, size),
        "<": (0, size - 1),
        "==": (size, size),
    }[test.operator]


def _named(tree: ModelTree, rules: Sequence[Rule]) -> Iterator[int]:
    """Yield for each module the rules whose patterns match its path."""
    literal: dict[int, int] = {}
    globs: dict[str, int] = {}
    for number, rule in enumerate(rules):
        for pattern in rule.match:
            if not pattern.literal:
                globs[pattern.text] = globs.get(pattern.text, 0) | 1 << number
            elif pattern.text in tree.index:
                position = tree.index[pattern.text]
                literal[position] = literal.get(position, 0) | 1 << number
    if not globs:
        yield from (literal.get(position, 0) for position in range(len(tree.modules)))
        return
    patterns = {pattern.text: pattern for rule in rules for pattern in rule.match if not pattern.literal}
    of_pattern = [globs[text] for text in patterns]
    named: dict[tuple[int, ...], int] = {}
    for position, matched in enumerate(_matched(tree, Matcher(list(patterns.values())))):
        if matched not in named:
            named[matched] = reduce(or_, (of_pattern[number] for number in matched), 0)
        yield named[matched] | literal.get(position, 0)


def _matched(tree: ModelTree, matcher: Matcher) -> Iterator[tuple[int, ...]]:
    """Yield for each module the patterns that match its path, all of them walked down the tree together."""
    states: list[tuple[int, int]] = []  # of the module's ancestors: where each ends, and its state
    for position, module in enumerate(tree.modules):
        while states and position >= states[-1][0]:
            states.pop()
        state = matcher.start
        if position:
            above = tree.modules[tree.parents[position]].path
            state = states[-1][1]
            for segment in module.path[len(above) + 1 if above else 0 :].split("."):
                state = matcher.step(state, segment)
        states.append((tree.subtree_end[position], state))
        yield matcher.matched(state)
