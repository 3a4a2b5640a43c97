"""How much a TOML text holds, counted before it is parsed.

Owns the count of what a parser would make objects of: a few characters of text become a kilobyte of tables. It finds no
error: behind the first one nothing is parsed, and what is counted there does not matter.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_WORD = re.compile(
    # A text that is not closed reaches to the end, as it does for a parser. Nothing is tried twice.
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?:[^']++|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+|[A-Za-z0-9_-]++|[=.,\[]",
    re.DOTALL,
)


class Bounds(NamedTuple):
    """How much a text may hold."""

    values: int
    """Keys, parts of dotted keys and entries of arrays, as they are written."""
    characters: int
    """Characters of a key or a text, as they are written."""


class Excess(NamedTuple):
    """What is too much: the place of a text that is too long, or none where there are too many values."""

    start: int = 0
    end: int = 0


def excess(text: str, bounds: Bounds) -> Excess | None:
    """Return what of a text is too much, `None` where nothing is. Costs a microsecond for each word until then."""
    if len(text) <= min(bounds):
        return None
    values = 0
    for found in _WORD.finditer(text):
        start, end = found.span()
        sign = text[start]
        if sign in "=.,[":
            values += 1
            if values > bounds.values:
                return Excess()
        elif sign != "#" and end - start - _quotes(text, start) > bounds.characters:
            return Excess(start, end)
    return None


def _quotes(text: str, start: int) -> int:
    """Return how many quotes are around a word."""
    if text.startswith(('"""', "'''"), start):
        return 6
    return 2 if text[start] in "\"'" else 0
