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
        self.groups = [(length, list(by_dots.items())) for (_, length), by_dots in sorted(shapes.items(), reverse=True)]

    def read(self, name: str) -> str | None:
        for length, by_dots in self.groups:
            if length > len(name):
                continue
            prefix = name[:length]
            for dots, keys in by_dots:
                masked = prefix
                for at in dots:
                    if prefix[at] != ".":
                        masked = f"{masked[:at]}.{masked[at + 1 :]}"
                if masked in keys:
                    # The text that matched is looked up in the map; through a wildcard dot it may be no key.
                    return prefix if prefix in self.keys else None
        return None


def _priority(key: str) -> tuple[int, int]:
    return key.count("."), len(key)
