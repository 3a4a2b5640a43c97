"""Numbers in module paths, and ranges of them: `model.layers.{0..31}`, `{16..}`.

Owns the notation that the patterns of policies, model files and outputs share. A number is written as Python writes it,
without leading zeros; both ends of a range are in it. A module's name holds any character but a dot, so a range is no
name and needs no quoting.
"""

from __future__ import annotations

import re

LARGEST_NUMBER = 10**9 - 1
"""A name of more digits is no number: nothing is counted so far."""

NUMBER = r"(?:0|[1-9][0-9]{0,8})"
"""The regex of a number."""

RANGE = re.compile(r"\{([0-9]*)\.\.([0-9]*)\}")
"""A range and its two ends as they are written. Whoever reads one checks the ends, and says what is wrong with them."""

_NUMBER = re.compile(NUMBER)


def number_of(name: str) -> int | None:
    """Return the number that a module's name is, `None` where it is none."""
    return int(name) if _NUMBER.fullmatch(name) else None


def write_range(first: int, last: int) -> str:
    """Return how the numbers from `first` to `last` are written: `{0..31}`, or one of them as itself."""
    return str(first) if first == last else f"{{{first}..{last}}}"
