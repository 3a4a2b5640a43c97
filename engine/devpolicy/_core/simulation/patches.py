"""Values put in the place of others, and back.

Owns the replaced names of modules and classes. Putting in place and taking away happen for every simulation that is
entered, and there are hundreds of names: what is done for all of them is done in C, a module at a time.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

# `operator.call` is generic over its arguments, which `map` cannot express.
_call: Any = operator.call

Getter = Callable[[dict[str, Any]], Any]


def _values(originals: dict[str, Any]) -> Any:
    """Return what `itemgetter` gives for these: a tuple for several names only."""
    values = list(originals.values())
    return tuple(values) if len(values) > 1 else values[0]


class ModulePatches:
    """Replaced names of modules: for each module its namespace, what stands there, and what comes in its place."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        # Columns of one table, a row for each module, so that `map` can run over them.
        self._namespaces: list[dict[str, Any]] = []
        self._shims: list[dict[str, Any]] = []
        self._originals: list[dict[str, Any]] = []
        self._getters: list[Getter] = []
        self._expected: list[Any] = []
        self._back: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[tuple[dict[str, Any], str]]:
        for namespace, shims in zip(self._namespaces, self._shims, strict=True):
            yield from ((namespace, name) for name in shims)

    def has(self, namespace: dict[str, Any], name: str) -> bool:
        """Whether a name is replaced."""
        place = self._places.get(id(namespace))
        return place is not None and name in self._shims[place]

    def add(self, namespace: dict[str, Any], name: str, shim: Any, original: Any, *, live: bool) -> None:
        """Replace one more name, at once where the shims are in place (`live`)."""
        place = self._places.get(id(namespace))
        if place is None:
            place = self._places[id(namespace)] = len(self._namespaces)
            self._namespaces.append(namespace)
            for column in (self._shims, self._originals, self._back):
                column.append({})
            self._getters.append(itemgetter(name))
            self._expected.append(None)
        self._shims[place][name] = shim
        self._originals[place][name] = original
        self._getters[place] = itemgetter(*self._shims[place])
        self._expected[place] = _values(self._originals[place])
        if live:
            self._back[place] = {**self._back[place], name: original}
            namespace[name] = shim

    def put(self) -> None:
        """Put the shims in place, over whatever is there."""
        if self._as_expected():
            self._back = self._originals.copy()
            deque(map(dict.update, self._namespaces, self._shims), maxlen=0)
            return
        # A test has patched something itself, or deleted it: its own comes back, and what is not there stays so.
        self._back = [
            {name: namespace[name] for name in shims if name in namespace}
            for namespace, shims in zip(self._namespaces, self._shims, strict=True)
        ]
        for namespace, shims, back in zip(self._namespaces, self._shims, self._back, strict=True):
            namespace.update({name: shims[name] for name in back})

    def take(self) -> None:
        """Put back what was there, as `unittest.mock.patch` does, whatever stands there now."""
        deque(map(dict.update, self._namespaces, self._back), maxlen=0)

    def _as_expected(self) -> bool:
        try:
            # These are functions and plain values, so the comparison is one of pointers.
            return list(map(_call, self._getters, self._namespaces)) == self._expected
        except KeyError:
            return False


class ClassPatch:
    """One replaced attribute of a class: its own, or one that it inherits."""

    __slots__ = ("_inherited", "_name", "_original", "_replacement", "owner")

    def __init__(self, owner: type, name: str, replacement: Any, original: Any) -> None:
        self.owner = owner
        self._name = name
        self._replacement = replacement
        self._original = original
        self._inherited = name not in vars(owner)

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        yield self.owner, self._name

    def put(self) -> None:
        """Put the replacement in place."""
        setattr(self.owner, self._name, self._replacement)

    def take(self) -> None:
        """Put back what was there: nothing, where another class has it."""
        if self._inherited:
            delattr(self.owner, self._name)
        else:
            setattr(self.owner, self._name, self._original)


class AttributePatch:
    """Values of one module, answered by a `__getattr__` that is put in their place."""

    __slots__ = ("_back", "_get", "_names", "owner")

    def __init__(self, namespace: dict[str, Any], names: tuple[str, ...], get: Callable[[str], Any]) -> None:
        self.owner = namespace
        self._names = names
        self._get = get
        self._back: dict[str, Any] = {}

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return ((self.owner, name) for name in self._names)

    def put(self) -> None:
        """Take the values out. The function comes first, so that no moment is without an answer."""
        self.owner["__getattr__"] = self._get
        self._back = {name: self.owner.pop(name) for name in self._names if name in self.owner}

    def take(self) -> None:
        """Put the values back."""
        for name, value in self._back.items():
            self.owner.setdefault(name, value)
        self.owner.pop("__getattr__", None)
