"""Which modules a quantiser leaves as they are: the rule of Transformers' quantisers.

Owns the comparison of a module's path with a list of names, which is `should_convert_module` of Transformers 5, and
which lists are read at all: a name may be a regular expression, and one from a stranger's file may take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

MOST_NAMES = 4096
"""A list of more names than this is not read."""
_LONGEST = 300
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
_REPEATS = re.compile(r"[*+{?]")
_NESTED = re.compile(r"\)[*+{?]|\(\?|\\\d")
"""Groups that are repeated, looked around or referred to: what makes a regular expression slow."""
_MOST_REPEATS = 2


class Skips:
    """A list of names that a quantiser leaves: each matches a path from its start to a dot, or its end."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._plain = {name.removesuffix(".") for name in self._names if _PLAIN.fullmatch(name)}
        self._patterns = [
            re.compile(rf"(?:{name})(?:(?<=\.)|(?=\.|$))") for name in self._names if not _PLAIN.fullmatch(name)
        ]

    def leaves(self, path: str) -> bool:
        """Return whether a module is left."""
        if path.endswith(self._names) or (self._patterns and any(one.match(path) for one in self._patterns)):
            return True
        end = path.find(".")
        while end >= 0:
            if path[:end] in self._plain:
                return True
            end = path.find(".", end + 1)
        return path in self._plain


class Anywhere:
    """A list of names or wildcards, each of which leaves a path that it is a part of or matches: engines' rule."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(dict.fromkeys(names))

    def leaves(self, path: str) -> bool:
        """Return whether a module is left."""
        return any(name in path or fnmatchcase(path, name) for name in self._names)


def names_module(names: Iterable[str], path: str, cls: str) -> bool:
    """Return whether a list of compressed-tensors names a module: by its class, its path, or an expression (`re:`)."""
    return any(
        name in (path, cls) or (name.startswith("re:") and re.match(name[3:], path) is not None) for name in names
    )


def is_readable(name: object) -> bool:
    """Return whether a list may hold a name: text that is quick to match."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST:
        return False
    if len(_REPEATS.findall(name)) > _MOST_REPEATS or _NESTED.search(name):
        return False
    try:
        re.compile(name.removeprefix("re:"))
    except (re.error, RecursionError, OverflowError):
        return False
    return True
