"""How the two Hugging Face readers read a device map.

Owns their rules, re-stated in a few lines, so that a map can be checked before it leaves. accelerate
takes the longest dotted prefix, which a disjoint map answers by construction. transformers joins the keys into
one regular expression, with their dots unescaped and without a boundary behind them, most dots and then
longest first: `a.b` also matches a tensor `axb.weight`, and `lm_head` one of `lm_head_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"[\\^$*+?{}\[\]|()\n]")


def contested(keys: Iterable[str]) -> set[str]:
    """Return the keys of which a tensor may be found under another, whatever the tensors below them are called.

    Few keys of a model are, if any: tensors of the others need not be read one by one.
    """
    texts = list(keys)
    if any(_SPECIAL.search(key) for key in texts):
        return set(texts)
    shapes = _Shapes(texts)
    return {key for key in texts if shapes.contests(key)}


def misread(keys: Iterable[str], tensors: Iterable[tuple[str, str]]) -> set[str]:
    """Return the keys whose tensors transformers would find under another key.

    `tensors` are pairs of a tensor's full name and the key that means it. Costs tensors times the number of
    different key shapes (length and dots), not times keys.
    """
    texts = list(keys)
    reader = _Regex(texts) if any(_SPECIAL.search(key) for key in texts) else _Shapes(texts)
    return {key for name, key in tensors if reader.read(name) != key}


class _Regex:
    """transformers' rule as it stands, for keys that hold characters with a meaning in a regular expression."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = set(keys)
        ordered = sorted(keys, key=_priority, reverse=True)
        try:
            self.pattern: re.Pattern[str] | None = re.compile("|".join(f"({key})" for key in ordered))
        except re.error:
            self.pattern = None

    def read(self, name: str) -> str | None:
        found = self.pattern.match(name) if self.pattern else None
        return found.group() if found and found.group() in self.keys else None


class _Shapes:
    """The same rule by tables: keys of one length with dots at the same positions are one look-up."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = set(keys)
        shapes: dict[tuple[int, int], dict[tuple[int, ...], set[str]]] = {}
        for key in self.keys:
            dots = tuple(at for at, character in enumerate(key) if character == ".")
            shapes.setdefault(_priority(key), {}).setdefault(dots, set()).add(key)
        # The first group that matches anything decides, by its length alone: all keys of a group match the same text.
        self.groups = [(priority, list(by_dots.items())) for priority, by_dots in sorted(shapes.items(), reverse=True)]
        self._cut: dict[tuple[int, tuple[int, ...], int], set[str]] = {}

    def read(self, name: str) -> str | None:
        for (_, length), by_dots in self.groups:
            if length > len(name):
                continue
            prefix = name[:length]
            for dots, keys in by_dots:
                if _masked(prefix, dots) in keys:
                    # The text that matched is looked up in the map; through a wildcard dot it may be no key.
                    return prefix if prefix in self.keys else None
        return None

    def contests(self, key: str) -> bool:
        """Return whether a group that goes before a key's own may match a name that begins with the key and a dot."""
        own = _priority(key)
        for priority, by_dots in self.groups:
            if priority <= own:
                break
            _, length = priority
            for dots, keys in by_dots:
                if length <= len(key):
                    found = _masked(key[:length], dots) in keys
                else:
                    found = len(key) in dots and _masked(key, dots) in self._starts(length, dots, keys, len(key))
                if found:
                    return True
        return False

    def _starts(self, length: int, dots: tuple[int, ...], keys: set[str], count: int) -> set[str]:
        """Return the first `count` characters of the keys of a group with dots at the same positions."""
        found = self._cut.get((length, dots, count))
        if found is None:
            found = self._cut[length, dots, count] = {key[:count] for key in keys}
        return found


def _masked(text: str, dots: tuple[int, ...]) -> str:
    """Return a text with dots at the positions of a key's, which match any character."""
    for at in dots:
        if at < len(text) and text[at] != ".":
            text = f"{text[:at]}.{text[at + 1 :]}"
    return text


def _priority(key: str) -> tuple[int, int]:
    return key.count("."), len(key)
