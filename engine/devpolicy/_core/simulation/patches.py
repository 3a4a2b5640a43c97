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
    source = "".join(f"def {name}():\n" + "".join(f" {line}\n" for line in lines) for name, lines in bodies.items())
    exec(compile(source, "<names that are replaced>", "exec"), values)
    return {name: values[name] for name in bodies}


MANY = 5


def _has_many(module: _Module) -> bool:
    """Whether a module has many names that are replaced, all of which can be named in code."""
    names = module[1]
    return len(names) >= MANY and all(
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
        self._replacements: list[tuple[Any, str, Any]] = []
        self._own: list[tuple[Any, str, Any]] = []
        self._inherited: list[tuple[Any, str]] = []

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return ((owner, name) for owner, name, _ in self._replacements)

    def has(self, owner: type, name: str) -> bool:
        """Whether an attribute is replaced."""
        return (id(owner), name) in self._known

    def add(self, owner: type, name: str, replacement: Any, original: Any, *, live: bool) -> None:
        """Replace one more, at once where the others are in place (`live`)."""
        self._known.add((id(owner), name))
        self._replacements.append((owner, name, replacement))
        if name in vars(owner):
            self._own.append((owner, name, original))
        else:
            self._inherited.append((owner, name))
        if live:
            setattr(owner, name, replacement)

    def put(self) -> None:
        """Put the replacements in place."""
        for owner, name, replacement in self._replacements:
            setattr(owner, name, replacement)

    def take(self) -> None:
        """Put back what was there: nothing, where another class has it."""
        for owner, name, original in self._own:
            setattr(owner, name, original)
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
