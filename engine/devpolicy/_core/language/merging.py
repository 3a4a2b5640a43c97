"""Policies laid over each other: tables merge by key, lists replace, `avoid` adds up, rules line up nearer first.

Owns the merging of what TOML gives, before it is read, and the way back from a key of the result to the text that it
comes from. So every key of the language is merged alike, and whatever is wrong with one is told where it was written.
It reads no file and no value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devpolicy._core.toml.tables import Origins

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.toml.document import Inside, Part
    from devpolicy._core.toml.spans import KeyPath

_WHOLE = frozenset({"prefer", "overflow", "avoid", "env"})
"""Keys whose tables are values: a device table replaces another, and is never mixed with it."""


@dataclass(frozen=True, slots=True)
class ConfigLayer:
    """A table of a text that is laid over others."""

    origins: Origins
    data: dict[str, Any]
    path: KeyPath = ()
    """Where the table stands in its text."""
    name: str = ""
    """What rules without a name are told apart by; empty for the policy's own text."""


@dataclass(slots=True)
class Merged:
    """Layers in one: `data` as one text would give it."""

    layers: tuple[ConfigLayer, ...]
    """The weakest first."""
    data: dict[str, Any] = field(default_factory=dict)
    _from: dict[KeyPath, tuple[int, KeyPath]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The name of the text that is nearest."""
        return self.layers[-1].origins.source

    def place(self, path: KeyPath, part: Part = "value", inside: Inside | None = None) -> Place:
        """Return where the key or the value of `path` was written."""
        number, own = self._origin(path)
        return self.layers[number].origins.place(own, part, inside)

    def order(self, path: KeyPath) -> tuple[int, ...]:
        """Return what sorts keys as they count: the nearest layer first, and within one as written."""
        number, own = self._origin(path)
        return -number, *self.layers[number].origins.order(own)

    def written(self, path: KeyPath) -> tuple[str, KeyPath]:
        """Return which layer a key comes from, and its path there."""
        number, own = self._origin(path)
        layer = self.layers[number]
        name, inner = layer.origins.written(own)
        return " of ".join(filter(None, (layer.name, name))), inner

    def folder(self, path: KeyPath) -> str | None:
        """Return the folder of the file that a key comes from."""
        number, own = self._origin(path)
        return self.layers[number].origins.folder(own)

    def _origin(self, path: KeyPath) -> tuple[int, KeyPath]:
        known = path
        while known and known not in self._from:
            known = known[:-1]
        number, own = self._from.get(known, (len(self.layers) - 1, self.layers[-1].path))
        return number, (*own, *path[len(known) :])

    def _take(self, number: int, target: dict[str, Any], data: dict[str, Any], path: KeyPath, own: KeyPath) -> None:
        """Lay a table over one of the result; `path` is its path there, `own` that in its layer."""
        for key, value in data.items():
            here, there = (*path, key), (*own, key)
            if key == "offload" and isinstance(value, dict) and not _free(path):
                inner = target[key] = _table(target.get(key))
                self._from.setdefault(here, (number, there))
                for keys, places in flatten(value):
                    self._put(number, inner, ".".join(keys), places, here, (*there, *keys))
            elif isinstance(value, dict) and not _is_value(key, path):
                if len(path) and path[-1] == "memory" and key in target and not isinstance(target[key], dict):
                    # A bare cap is a table of one key.
                    target[key] = {"cap": target[key]}
                    self._from[*here, "cap"] = self._from[here]
                inner = target[key] = _table(target.get(key))
                self._from[here] = (number, there)
                self._take(number, inner, value, here, there)
            elif len(path) and path[-1] == "memory" and isinstance(target.get(key), dict):
                self._put(number, target[key], "cap", value, here, there)
            elif key in target and key in ("avoid", "rule") and not _free(path):
                self._add(number, target, key, value, here, there)
            else:
                self._put(number, target, key, value, path, there)

    def _put(self, number: int, target: dict[str, Any], key: str, value: Any, path: KeyPath, own: KeyPath) -> None:
        """Set a key, and forget what was below it."""
        here = (*path, key)
        if isinstance(target.get(key), list | dict):
            for known in [known for known in self._from if known[: len(here)] == here]:
                del self._from[known]
        target.pop(key, None)  # what is set anew stands where it is set, behind what was there
        target[key] = value
        self._from[here] = (number, own)

    def _add(self, number: int, target: dict[str, Any], key: str, value: Any, here: KeyPath, own: KeyPath) -> None:
        """Add entries to a list: rules in front, because the nearer one decides, others behind."""
        old, new = _entries(target[key]), _entries(value)
        before = [self._origin((*here, at) if isinstance(target[key], list) else here) for at in range(len(old))]
        added = [(number, (*own, at) if isinstance(value, list) else own) for at in range(len(new))]
        nearer = key == "rule"
        self._put(number, target, key, [*new, *old] if nearer else [*old, *new], here[:-1], own)
        for at, origin in enumerate([*added, *before] if nearer else [*before, *added]):
            self._from[*here, at] = origin


def merge(layers: Sequence[ConfigLayer]) -> Merged:
    """Lay `layers` over each other, the weakest first."""
    merged = Merged(tuple(layers))
    for number, layer in enumerate(layers):
        merged._take(number, merged.data, layer.data, (), layer.path)
    return merged


def flatten(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the entries of nested tables: a bare key's dots and the dots of a path are the same to us."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, (*above, key))
        else:
            yield (*above, key), value


def leaves(data: dict[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, KeyPath]]:
    """Yield the keys that a table sets, each with its place in its text, but not those that only add."""
    for key, value in data.items():
        here = (*path, key)
        if key in ("avoid", "rule") and not _free(path):
            continue
        if key == "offload" and isinstance(value, dict) and not _free(path):
            yield from (((*here, ".".join(keys)), (*here, *keys)) for keys, _ in flatten(value))
        elif isinstance(value, dict) and not _is_value(key, path):
            yield from leaves(value, here)
        else:
            yield ((*here, "cap") if path[-1:] == ("memory",) else here), here


def _is_value(key: str, path: KeyPath) -> bool:
    return key in _WHOLE and not _free(path)


def _free(path: KeyPath) -> bool:
    """Whether a table's keys are names that its writer chose."""
    return path[-1:] in (("component",), ("profile",), ("devices",), ("memory",), ("host",))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
