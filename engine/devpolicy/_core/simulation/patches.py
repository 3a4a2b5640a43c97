"""Values put in the place of others, and back.

Owns the replaced names of modules and classes. Putting in place and taking away happen for every simulation that is
entered, and there are hundreds of names: what is done for all of them is done in C, without a step of Python for each.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from keyword import iskeyword
from operator import getitem, setitem
from types import CodeType, FunctionType
from typing import Any

# These are generic over their arguments, which `map` cannot express.
_call: Any = operator.call
_update: Any = operator.ior

_Module = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A module's namespace, the shims by their names, and what they replace."""


def _run(steps: Iterable[Any]) -> None:
    deque(steps, maxlen=0)


class ModulePatches:
    """Replaced names of modules: for each module its namespace, what stands there, and what comes in its place."""

    def __init__(self) -> None:
        self._modules: dict[int, _Module] = {}
        self._tables = _SingleNames([]), _SeveralNames([])
        self._stale = False
        """Whether the tables lack a name."""
        self._unusual = False
        """Whether something else than the originals was there when the shims were put in place."""
        self._back: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """What is put back besides the originals of the tables, and where that is unusual in their place."""

    def __iter__(self) -> Iterator[tuple[dict[str, Any], str]]:
        for namespace, shims, _ in self._modules.values():
            yield from ((namespace, name) for name in shims)

    def has(self, namespace: dict[str, Any], name: str) -> bool:
        """Whether a name is replaced."""
        module = self._modules.get(id(namespace))
        return module is not None and name in module[1]

    def add(self, namespace: dict[str, Any], name: str, shim: Any, original: Any, *, live: bool) -> None:
        """Replace one more name, at once where the shims are in place (`live`)."""
        _, shims, originals = self._modules.setdefault(id(namespace), (namespace, {}, {}))
        shims[name], originals[name] = shim, original
        self._stale = True
        if live:
            self._back.append((namespace, {name: original}))
            namespace[name] = shim

    def put(self) -> None:
        """Put the shims in place, over whatever is there."""
        if self._stale:
            modules = self._modules.values()
            self._tables = (
                _SingleNames([module for module in modules if not _together(module)]),
                _SeveralNames([module for module in modules if _together(module)]),
            )
            self._stale = False
        single, by_module = self._tables
        self._unusual = not (single.as_expected() and by_module.as_expected())
        self._back = []
        if not self._unusual:
            single.put()
            by_module.put()
            return
        # A test has patched something itself, or deleted it: its own comes back, and what is not there stays so.
        for namespace, shims, _ in self._modules.values():
            back = {name: namespace[name] for name in shims if name in namespace}
            self._back.append((namespace, back))
            namespace.update({name: shims[name] for name in back})

    def take(self) -> None:
        """Put back what was there, as `unittest.mock.patch` does, whatever stands there now."""
        if not self._unusual:
            for table in self._tables:
                table.take()
        for namespace, values in self._back:
            namespace.update(values)


class _SingleNames:
    """Names that are replaced one by one: columns of a table, so that `map` can run over them."""

    def __init__(self, modules: list[_Module]) -> None:
        self._namespaces = [namespace for namespace, shims, _ in modules for _ in shims]
        self._names = [name for _, shims, _ in modules for name in shims]
        self._shims = [shim for _, shims, _ in modules for shim in shims.values()]
        self._originals = [original for _, _, originals in modules for original in originals.values()]

    def as_expected(self) -> bool:
        """Whether the originals are there. They are functions and plain values, so this compares pointers."""
        try:
            return list(map(getitem, self._namespaces, self._names)) == self._originals
        except KeyError:
            return False

    def put(self) -> None:
        """Put the shims there."""
        _run(map(setitem, self._namespaces, self._names, self._shims))

    def take(self) -> None:
        """Put the originals there."""
        _run(map(setitem, self._namespaces, self._names, self._originals))


class _SeveralNames:
    """Modules of which several are: a step for each module, which takes longer than one for a name alone."""

    def __init__(self, modules: list[_Module]) -> None:
        self._namespaces = [namespace for namespace, _, _ in modules]
        self._unchanged = [_unchanged(namespace, originals) for namespace, _, originals in modules]
        self._shims = [shims.copy() for _, shims, _ in modules]
        self._originals = [originals.copy() for _, _, originals in modules]

    def as_expected(self) -> bool:
        """Whether the originals are there."""
        try:
            return all(map(_call, self._unchanged))
        except NameError:
            return False

    def put(self) -> None:
        """Put the shims there."""
        _run(map(_update, self._namespaces, self._shims))

    def take(self) -> None:
        """Put the originals there."""
        _run(map(_update, self._namespaces, self._originals))


def _together(module: _Module) -> bool:
    """Whether a module's names are replaced in one step: several, and such as code can name."""
    names = module[1]
    return len(names) > 1 and all(
        name.isidentifier() and not iskeyword(name) and not name.startswith(_GIVEN) for name in names
    )


_GIVEN = "original_"


def _unchanged(namespace: dict[str, Any], originals: dict[str, Any]) -> Callable[[], bool]:
    """Return a function that says whether the originals are there.

    Its globals are the module's namespace, since nothing reads many names of one faster than the interpreter itself.
    """
    parameters = ", ".join(f"{_GIVEN}{index}" for index in range(len(originals)))
    same = " and ".join(f"{name} is {_GIVEN}{index}" for index, name in enumerate(originals))
    made = compile(f"lambda {parameters}: {same}", "<names that are replaced>", "eval")
    (code,) = (constant for constant in made.co_consts if isinstance(constant, CodeType))
    return FunctionType(code, namespace, None, tuple(originals.values()))


class ClassPatches:
    """Replaced attributes of classes: their own, and such as they inherit."""

    def __init__(self) -> None:
        self._known: set[tuple[int, str]] = set()
        self._owners: list[Any] = []
        self._names: list[str] = []
        self._replacements: list[Any] = []
        self._own: tuple[list[Any], list[str], list[Any]] = [], [], []
        self._inherited: list[tuple[Any, str]] = []

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return zip(self._owners, self._names, strict=True)

    def has(self, owner: type, name: str) -> bool:
        """Whether an attribute is replaced."""
        return (id(owner), name) in self._known

    def add(self, owner: type, name: str, replacement: Any, original: Any, *, live: bool) -> None:
        """Replace one more, at once where the others are in place (`live`)."""
        self._known.add((id(owner), name))
        self._owners.append(owner)
        self._names.append(name)
        self._replacements.append(replacement)
        if name in vars(owner):
            owners, names, originals = self._own
            owners.append(owner)
            names.append(name)
            originals.append(original)
        else:
            self._inherited.append((owner, name))
        if live:
            setattr(owner, name, replacement)

    def put(self) -> None:
        """Put the replacements in place."""
        _run(map(setattr, self._owners, self._names, self._replacements))

    def take(self) -> None:
        """Put back what was there: nothing, where another class has it."""
        _run(map(setattr, *self._own))
        for owner, name in self._inherited:
            delattr(owner, name)


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
        owner = self.owner
        owner["__getattr__"] = self._get
        for name in self._names:
            if name in owner:
                self._back[name] = owner.pop(name)

    def take(self) -> None:
        """Put the values back."""
        if self._back:
            for name, value in self._back.items():
                self.owner.setdefault(name, value)
            self._back.clear()
        self.owner.pop("__getattr__", None)
