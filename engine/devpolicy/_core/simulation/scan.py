"""What loaded modules hold: which are new, and which of their caches would freeze an answer about devices.

Owns the reading of `sys.modules`. It replaces nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation import layers

if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE = type(functools.lru_cache(lambda: None))

OWN = __name__.rpartition(".")[0]
"""What simulates asks the real machine."""

Known = Callable[[object], str | None]
"""Says of a function that asks about devices, and was found elsewhere, which layer it belongs to."""

DEVICE_WORDS = frozenset({"accelerator", "cuda", "gpu", "gpus", "hip", "mps", "nvml", "rocm", "vram", "xpu"})
"""Words of names (`is_cuda_available`) that show, in a function's code, that it asks about devices."""


class Seen:
    """Which modules have been looked at."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._loaded = 0
        self._latest = ""
        self._lazy: list[ModuleType] = []
        self._namespaces: list[dict[str, Any]] = []
        self._sizes: list[int] = []

    def new(self) -> list[ModuleType]:
        """Return the modules that are loaded and were not returned before; those that are still loading come later.

        Packages that load their names when they are asked for (`transformers`) come again when they have more.
        """
        sizes = list(map(len, self._namespaces))
        grown = [] if sizes == self._sizes else self._grown(sizes)
        # Modules are rarely removed, and a new one comes last: nearly always this is all that is looked at.
        loaded, latest = len(sys.modules), next(reversed(sys.modules))
        if loaded == self._loaded and latest is self._latest:
            return grown
        found = []
        settled = True
        for name, module in list(sys.modules.items()):
            if not isinstance(module, ModuleType) or self._ids.get(name) == id(module) or name.startswith(OWN):
                continue
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                settled = False
                continue
            self._ids[name] = id(module)
            if type(module) is not ModuleType and "." not in name:
                self._lazy.append(module)
                self._namespaces.append(vars(module))
                self._sizes.append(len(vars(module)))
            found.append(module)
        self._loaded, self._latest = loaded if settled else 0, latest
        return found + grown

    def _grown(self, sizes: list[int]) -> list[ModuleType]:
        before, self._sizes = self._sizes, sizes
        return [module for module, *size in zip(self._lazy, before, sizes, strict=True) if size[0] != size[1]]


def device_caches(module: ModuleType, known: Known) -> Iterator[tuple[Any, str]]:
    """Yield the `functools` caches that a module defines and whose functions ask about devices, with their layers.

    They are recognised by the names in their code: one has a word for devices, or is that of a function that asks,
    which `known` says of those found elsewhere; functions of the same package that are called are looked into. Caches
    inside functions are not found.
    """
    for value in list(vars(module).values()):
        if type(value) is _CACHE and value.__module__ == module.__name__:
            asked = _asked(value, known)
            if asked:
                yield value, layers.of_all(asked)


def method_caches(module: ModuleType, known: Known) -> Iterator[tuple[type, str, Any, str, Callable[[Any], Any]]]:
    """Yield the caches of that kind which are methods: class, name, cache, layer, what makes a method of a function."""
    for owner in _classes(module):
        for name, value in list(vars(owner).items()):
            wrapper = type(value) if type(value) in (staticmethod, classmethod) else _itself
            cache = value.__func__ if wrapper is not _itself else value
            asked = _asked(cache, known) if type(cache) is _CACHE else None
            if asked:
                yield owner, name, cache, layers.of_all(asked), wrapper


def shared_instances(module: ModuleType) -> Iterator[tuple[type, dict[Any, Any]]]:
    """Yield classes that keep what they have made in a dict of theirs, by the usual name, with that dict."""
    for owner in _classes(module):
        kept = vars(owner).get(INSTANCES)
        if isinstance(kept, dict):
            yield owner, kept


def _classes(module: ModuleType) -> Iterator[type]:
    for value in list(vars(module).values()):
        # `isinstance` would ask an object for its `__class__`, which may warn.
        if issubclass(type(value), type) and value.__module__ == module.__name__:
            yield value


INSTANCES = "_instances"


def _itself(function: Any) -> Any:
    return function


def _asked(function: Any, known: Known, seen: set[object] | None = None) -> set[str]:
    """Return the layers of what a function asks about devices, and of what the functions that it calls do."""
    function = unwrap(function)
    code = getattr(function, "__code__", None)
    seen = set() if seen is None else seen
    if code is None or function in seen:
        return set()
    seen.add(function)
    names = _names_in(code)
    found = {layers.of_word(word) for name in names for word in DEVICE_WORDS.intersection(name.lower().split("_"))}
    package = package_of(str(function.__module__))
    # A function of arguments tells them apart by a class (`isinstance`); one of none returns what it names.
    takes = code.co_argcount + code.co_kwonlyargcount
    for value in _named(function.__globals__, names, package):
        layer = None if takes and isinstance(value, type) else known(value)
        if layer is not None:
            found.add(layer)
        elif type(value) in (FunctionType, _CACHE) and package_of(str(value.__module__)) == package:
            found |= _asked(value, known, seen)
    return found


def _named(namespace: dict[str, Any], names: set[str], package: str) -> Iterator[Any]:
    """Yield what can be called by these names, also through a module of the package (`devices.pick`)."""
    for name in names:
        value = namespace.get(name)
        if isinstance(value, ModuleType):
            if package_of(value.__name__) == package:
                yield from (vars(value)[inner] for inner in names if callable(vars(value).get(inner)))
        elif callable(value):
            yield value


def package_of(module: str) -> str:
    """Return the first part of a module's name."""
    return module.partition(".")[0]


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
