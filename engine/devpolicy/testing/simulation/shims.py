"""Functions of libraries, replaced while any simulation runs.

Owns what is replaced and what was there before. A shim asks which simulation runs here (`running`) and calls the
original where none does, so other threads and tasks see the real machine all the while. Shims are made once for each
library; the first simulation puts them in place and the last one that ends takes them away.

A function is replaced wherever a module holds it under a name, since `from torch.cuda import device_count` keeps its
own reference; `scan` finds these.
"""

from __future__ import annotations

import threading
from functools import wraps
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from devpolicy.testing.simulation import scan
from devpolicy.testing.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from devpolicy.testing.simulation.libraries import Answer, Answers

_CACHE_METHODS = ("cache_info", "cache_clear", "cache_parameters")


def shim(original: Callable[..., Any], answer: Answer) -> Callable[..., Any]:
    """Return a function that gives `answer` under a simulation and calls `original` otherwise."""

    @wraps(original)
    def asked(*args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is None:
            return original(*args, **kwargs)
        return answer(simulation, *args, **kwargs)

    _keep_cache_methods(asked, original)
    return asked


def cached_shim(original: Any) -> Callable[..., Any]:
    """Return a stand-in for a `functools` cache: under a simulation it keeps its results apart, with that simulation."""
    function = original.__wrapped__

    @wraps(original)
    def asked(*args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is None:
            return original(*args, **kwargs)
        results = simulation.memo.setdefault(original, {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    _keep_cache_methods(asked, original)
    return asked


def _keep_cache_methods(asked: Any, original: Any) -> None:
    for name in _CACHE_METHODS:
        if hasattr(original, name):
            setattr(asked, name, getattr(original, name))


class _Patch:
    """The shims of one namespace, and what stood there when they were put in place."""

    __slots__ = ("_displaced", "_get", "namespace", "shims")

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.shims: dict[str, Any] = {}
        self._get: Callable[[Any], Any] | None = None
        self._displaced: Any = None

    def add(self, name: str, replacement: Any, displaced: Any, *, live: bool) -> None:
        """Replace one more name; `displaced` is what comes back when it is put in place already (`live`)."""
        kept = dict(zip(self.shims, self._kept(), strict=True)) if live and self.shims else {}
        self.shims[name] = replacement
        self._get = itemgetter(*self.shims)
        if live:
            kept[name] = displaced
            self._keep(tuple(kept[each] for each in self.shims))
            self.namespace[name] = replacement

    def put(self) -> None:
        """Put the shims in place, over whatever is there: a test's own patch as well."""
        assert self._get is not None
        self._displaced = self._get(self.namespace)
        self.namespace.update(self.shims)

    def take(self) -> None:
        """Put back what was there. A name that was patched meanwhile, and still is, is left alone."""
        for (name, replacement), before in zip(self.shims.items(), self._kept(), strict=True):
            if self.namespace.get(name) is replacement:
                self.namespace[name] = before

    def _kept(self) -> tuple[Any, ...]:
        # itemgetter gives a tuple for several names, and the bare value for one.
        return self._displaced if len(self.shims) > 1 else (self._displaced,)

    def _keep(self, values: tuple[Any, ...]) -> None:
        self._displaced = values if len(values) > 1 else values[0]


class Shims:
    """All that is replaced."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._patches: dict[int, _Patch] = {}
        self._by_original: dict[int, Any] = {}
        self._originals: dict[int, Any] = {}
        self._names: set[str] = {name for questions in answers.values() for name in questions}
        self._seen = scan.Seen()
        self._count = 0
        self._lock = threading.RLock()

    def put(self) -> None:
        """Put every shim in place, unless a simulation has done so already."""
        with self._lock:
            self._count += 1
            self._adopt(self._seen.new(), live=self._count > 1)
            if self._count == 1:
                for patch in self._patches.values():
                    patch.put()

    def take(self) -> None:
        """Put everything back, if this was the last simulation."""
        with self._lock:
            self._count -= 1
            if not self._count:
                self._adopt(self._seen.new(), live=True)
                for patch in self._patches.values():
                    patch.take()

    def adopt(self, module: ModuleType) -> None:
        """Replace what a module asks that was imported just now, under a simulation."""
        with self._lock:
            if self._count:
                self._adopt([module], live=True)

    def _adopt(self, modules: list[ModuleType], *, live: bool) -> None:
        for module in modules:
            self._answer_for(module, live=live)
        for module in modules:
            self._caches_of(module)
        for module in modules:
            namespace = vars(module)
            for name, value in list(namespace.items()):
                replacement = self._by_original.get(id(value))
                if replacement is not None:
                    self._replace(namespace, name, replacement, value, live=live)
                elif id(value) in self._originals and name not in self._shims_of(namespace):
                    # It was imported under a simulation, and so got the shim itself.
                    self._replace(namespace, name, value, self._originals[id(value)], live=live)

    def _answer_for(self, module: ModuleType, *, live: bool) -> None:
        namespace = vars(module)
        for name, answer in self._answers.get(module.__name__, {}).items():
            original = namespace.get(name)
            if original is not None and id(original) not in self._originals:
                self._know(original, shim(original, answer))

    def _caches_of(self, module: ModuleType) -> None:
        for cache in scan.device_caches(module, self._names):
            if id(cache) not in self._by_original:
                self._know(cache, cached_shim(cache))

    def _know(self, original: Any, replacement: Any) -> None:
        # Both are kept for good, so their ids are not given to anything else.
        self._by_original[id(original)] = replacement
        self._originals[id(replacement)] = original

    def _shims_of(self, namespace: dict[str, Any]) -> dict[str, Any]:
        patch = self._patches.get(id(namespace))
        return patch.shims if patch else {}

    def _replace(self, namespace: dict[str, Any], name: str, replacement: Any, before: Any, *, live: bool) -> None:
        patch = self._patches.setdefault(id(namespace), _Patch(namespace))
        patch.add(name, replacement, before, live=live)
