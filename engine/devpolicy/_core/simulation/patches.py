"""Values put in the place of others, and back.

Owns the replaced names of modules and classes. Putting in place and taking away happen for every simulation that is
entered, and there are hundreds of names: for those of modules, a program is made of them that does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from keyword import iskeyword
from types import CodeType, FunctionType
from typing import Any

_Module = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A module's namespace, the shims by their names, and what they replace."""


class ModulePatches:
    """Replaced names of modules: for each module its namespace, what stands there, and what comes in its place."""

    def __init__(self) -> None:
        self._modules: dict[int, _Module] = {}
        self._program: dict[str, Callable[[], Any]] = _program([])
        self._stale = False
        """Whether the program lacks a name."""
        self._unusual = False
        """Whether something else than the originals was there when the shims were put in place."""
        self._back: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """What is put back besides the originals, and where that is unusual in their place."""

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
            self._program = _program(list(self._modules.values()))
            self._stale = False
        self._back = []
        try:
            self._unusual = not self._program["as_expected"]()
        except (KeyError, NameError):
            self._unusual = True
        if not self._unusual:
            self._program["put"]()
            return
        # A test has patched something itself, or deleted it: its own comes back, and what is not there stays so.
        for namespace, shims, _ in self._modules.values():
            back = {name: namespace[name] for name in shims if name in namespace}
            self._back.append((namespace, back))
            namespace.update({name: shims[name] for name in back})

    def take(self) -> None:
        """Put back what was there, as `unittest.mock.patch` does, whatever stands there now."""
        if not self._unusual:
            self._program["take"]()
        for namespace, values in self._back:
            namespace.update(values)


def _program(modules: list[_Module]) -> dict[str, Callable[[], Any]]:
    """Return functions that say whether the originals are there, and that put the shims and the originals there.

    Nothing writes few entries of many dicts faster than code that has a line for each; many of one are updated.
    """
    values: dict[str, Any] = {}
    same, put, take = ["True"], ["pass"], ["pass"]
    for number, module in enumerate(modules):
        namespace, shims, originals = module
        values[f"module_{number}"] = namespace
        put.append(f"module = module_{number}")
        take.append(f"module = module_{number}")
        if _has_many(module):
            values[f"same_{number}"] = _unchanged(namespace, originals)
            values[f"shims_{number}"], values[f"originals_{number}"] = shims.copy(), originals.copy()
            same.append(f"same_{number}()")
            put.append(f"module |= shims_{number}")
            take.append(f"module |= originals_{number}")
            continue
        for index, name in enumerate(shims):
            shim, original = f"shim_{number}_{index}", f"original_{number}_{index}"
            values[shim], values[original] = shims[name], originals[name]
            same.append(f"module_{number}[{name!r}] is {original}")
            put.append(f"module[{name!r}] = {shim}")
            take.append(f"module[{name!r}] = {original}")
    bodies = {"as_expected": ["return " + " and ".join(same)], "put": put, "take": take}
    return _functions(bodies, values)


def _functions(bodies: dict[str, list[str]], values: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return functions of these lines, whose globals are `values`."""
    source = "".join(f"def {name}():\n" + "".join(f" {line}\n" for line in lines) for name, lines in bodies.items())
    exec(compile(source, "<names that are replaced>", "exec"), values)
    return {name: values[name] for name in bodies}


MANY = 5


def _has_many(module: _Module) -> bool:
    """Whether a module has many names that are replaced, all of which can be named in code."""
    names = module[1]
    return len(names) >= MANY and all(_can_be_code(name) and not name.startswith(_GIVEN) for name in names)


def _can_be_code(name: str) -> bool:
    """Whether a name can be written in code, which reads some letters as others."""
    return name.isascii() and name.isidentifier() and not iskeyword(name)


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
        self._replacements: list[tuple[Any, str, Any, Any]] = []
        """Class, name, what comes in its place, and what is put back: `_INHERITED` where another class has it."""
        self._program: dict[str, Callable[[], Any]] = _class_program([])
        self._stale = False

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return ((owner, name) for owner, name, _, _ in self._replacements)

    def has(self, owner: type, name: str) -> bool:
        """Whether an attribute is replaced."""
        return (id(owner), name) in self._known

    def add(self, owner: type, name: str, replacement: Any, original: Any, *, live: bool) -> None:
        """Replace one more, at once where the others are in place (`live`)."""
        self._known.add((id(owner), name))
        self._replacements.append((owner, name, replacement, original if name in vars(owner) else _INHERITED))
        self._stale = True
        if live:
            setattr(owner, name, replacement)

    def put(self) -> None:
        """Put the replacements in place."""
        self._current()["put"]()

    def take(self) -> None:
        """Put back what was there: nothing, where another class has it."""
        self._current()["take"]()

    def _current(self) -> dict[str, Callable[[], Any]]:
        if self._stale:
            self._program = _class_program(self._replacements)
            self._stale = False
        return self._program


_INHERITED: Any = object()


def _class_program(replacements: list[tuple[Any, str, Any, Any]]) -> dict[str, Callable[[], Any]]:
    """Return functions that put the replacements in place, and what was there."""
    values: dict[str, Any] = {}
    put, take = ["pass"], ["pass"]
    for number, (owner, name, replacement, original) in enumerate(replacements):
        values |= {f"owner_{number}": owner, f"shim_{number}": replacement, f"original_{number}": original}
        held, back = f"owner_{number}.{name}", f"original_{number}"
        if _can_be_code(name):
            put.append(f"{held} = shim_{number}")
            take.append(f"del {held}" if original is _INHERITED else f"{held} = {back}")
            continue
        held = f"owner_{number}, {name!r}"
        put.append(f"setattr({held}, shim_{number})")
        take.append(f"delattr({held})" if original is _INHERITED else f"setattr({held}, {back})")
    return _functions({"put": put, "take": take}, values)


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
            value = owner.pop(name, _GONE)
            if value is not _GONE:
                self._back[name] = value

    def take(self) -> None:
        """Put the values back."""
        owner = self.owner
        if self._back:
            for name, value in self._back.items():
                owner.setdefault(name, value)
            self._back.clear()
        owner.pop("__getattr__", None)


_GONE: Any = object()
