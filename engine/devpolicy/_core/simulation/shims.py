"""Names of libraries, replaced while any simulation runs.

Owns what is replaced and what was there before. A shim asks which simulation runs here (`running`) and calls the
original where none does, so other threads and tasks see the real machine all the while. Shims are made once for each
library; the first simulation that needs them puts them in place and the last one that ends takes them away.

A function is replaced wherever a module holds it under a name, since `from torch.cuda import device_count` keeps its
own reference. `scan` finds the modules, `patches` does the replacing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation import scan
from devpolicy._core.simulation.imports import PAUSED, ImportHook
from devpolicy._core.simulation.layers import ALWAYS, LAYERS, TENSORS, Layer, of_module, of_name
from devpolicy._core.simulation.patched_libraries import ORIGINAL, Around
from devpolicy._core.simulation.patched_libraries.constants import OfEachSimulation
from devpolicy._core.simulation.patches import AttributePatch
from devpolicy._core.simulation.running import Simulation, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    from devpolicy._core.simulation.patched_libraries import Answer, Library

Ask = Callable[[], Simulation | None]
Given = Callable[..., Any] | Around

_CACHE_METHODS = ("cache_info", "cache_clear", "cache_parameters")


def shim(
    original: Callable[..., Any], answer: Given, ask: Ask = running, deep: Given | None = None
) -> Callable[..., Any]:
    """Return a function that gives an answer under a simulation and calls `original` otherwise.

    Where devices hold tensors `deep` answers, if it is given.
    """
    at_probes = _takes_original(answer)
    at_depth = at_probes if deep is None else _takes_original(deep)

    @wraps(original)
    def asked(*args: Any, **kwargs: Any) -> Any:
        simulation = ask()
        if simulation is None:
            return original(*args, **kwargs)
        if simulation.backend is None:
            return at_probes(simulation, original, *args, **kwargs)
        return at_depth(simulation, original, *args, **kwargs)

    _keep_cache_methods(asked, original)
    return asked


def _takes_original(given: Given) -> Callable[..., Any]:
    """Return an answer in the form that takes the simulation and the original."""
    if isinstance(given, Around):
        return given.function

    def without(simulation: Simulation, original: Any, *args: Any, **kwargs: Any) -> Any:
        return given(simulation, *args, **kwargs)

    return without


def cached_shim(original: Any) -> Callable[..., Any]:
    """Return a stand-in for a `functools` cache: its results under a simulation are kept with that simulation."""
    function = original.__wrapped__

    @wraps(original)
    def asked(*args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is None:
            return original(*args, **kwargs)
        answers = simulation.memo.setdefault(original, {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in answers:
            answers[key] = function(*args, **kwargs)
        return answers[key]

    _keep_cache_methods(asked, original)
    return asked


def _keep_cache_methods(asked: Any, original: Any) -> None:
    for name in _CACHE_METHODS:
        if hasattr(original, name):
            setattr(asked, name, getattr(original, name))


class Shims:
    """All that is replaced for a list of libraries."""

    def __init__(self, libraries: Iterable[Library]) -> None:
        self._libraries = tuple(libraries)
        self.entered = tuple(filter(None, (library.entered for library in self._libraries)))
        """What is to be called when a simulation begins."""
        self.tensors_entered = tuple(filter(None, (library.tensors_entered for library in self._libraries)))
        """What is to be called besides where devices hold tensors."""
        self._layers = {name: Layer() for name in LAYERS}
        self._answers: dict[str, dict[str, tuple[Given, Library]]] = {}
        self._deep: dict[str, dict[str, Given]] = {}
        for library in self._libraries:
            for module, answers in library.answers.items():
                of_module = self._answers.setdefault(module, {})
                of_module |= {name: (answer, library) for name, answer in answers.items()}
            for module, deep in library.tensors.items():
                self._deep.setdefault(module, {}).update(deep)
        self._hook = ImportHook(self.adopt)
        # What stands in for a function, or is replaced by one, by its id, and the layer of both.
        self._by_original: dict[int, tuple[Any, str]] = {}
        self._originals: dict[int, tuple[Any, str]] = {}
        self._seen = scan.Seen()
        self._strange: list[tuple[ModuleType, str, object]] = []
        self._awaited: dict[str, Callable[[], None]] = {}
        self._count = 0
        self._lock = threading.RLock()

    def put(self, layers: Iterable[str]) -> None:
        """Put every shim of these layers in place, unless a simulation has done so already."""
        with self._lock:
            if self._strange and not self._count:
                self._look_again()
            if new := self._seen.new():
                self._adopt(new)
            self._count += 1
            if self._count == 1:
                sys.meta_path.insert(0, self._hook)
            for layer in layers:
                self._layers[layer].put()

    def take(self, layers: Iterable[str]) -> None:
        """Put back what no other simulation needs."""
        with self._lock:
            self._count -= 1
            if not self._count:
                # What was imported meanwhile may hold shims under names of its own.
                if new := self._seen.new():
                    self._adopt(new)
                sys.meta_path.remove(self._hook)
            for layer in layers:
                self._layers[layer].take()

    def put_more(self, layer: str) -> None:
        """Put the shims of one more layer in place, under a simulation."""
        with self._lock:
            self._layers[layer].put()

    def take_more(self, layer: str) -> None:
        """Put back what `put_more` replaced, unless another simulation needs it."""
        with self._lock:
            self._layers[layer].take()

    def _look_again(self) -> None:
        """Learn a library's own function where a test's patch stood in its place when its module was first seen."""
        still = [entry for entry in self._strange if vars(entry[0]).get(entry[1]) is entry[2]]
        if len(still) < len(self._strange):
            self._strange = still
            self._seen = scan.Seen()

    def adopt(self, modules: list[ModuleType]) -> None:
        """Replace what modules ask that were loaded just now, under a simulation."""
        with self._lock:
            if self._count:
                # C code makes modules too, which no loader runs.
                others = [module for module in self._seen.new() if module not in modules]
                self._adopt([*modules, *others])
        for module in modules:
            awaited = self._awaited.pop(module.__name__, None)
            if awaited is not None:
                awaited()

    def when_loaded(self, module: str, call: Callable[[], None]) -> None:
        """Call something once a module has been imported under a simulation, and what it asks was replaced."""
        self._awaited[module] = call

    def replaced(self) -> list[tuple[Any, str]]:
        """Return every name that simulations replace, as the module's or class's attributes and the name."""
        return list(chain.from_iterable(self._layers.values()))

    def _adopt(self, modules: list[ModuleType]) -> None:
        # Originals first, over all modules: any of them may hold a function of any other.
        for module in modules:
            self._learn(module)
        for module in modules:
            namespace = vars(module)
            for name, value in list(namespace.items()):
                if (known := self._by_original.get(id(value))) is not None:
                    self._replace(namespace, name, value, *known)
                elif (shimmed := self._originals.get(id(value))) is not None:
                    self._replace_imported(namespace, name, value, *shimmed)
            self._stand_in(module)

    def _replace(self, namespace: dict[str, Any], name: str, original: Any, replacement: Any, layer: str) -> None:
        """Replace one name, at once where its layer is in place."""
        of_layer = self._layers[layer]
        of_layer.names.add(namespace, name, replacement, original, live=of_layer.count > 0)

    def _replace_imported(self, namespace: dict[str, Any], name: str, value: Any, original: Any, layer: str) -> None:
        """Replace a name that was imported under a simulation, and so got the shim itself."""
        if not self._layers[layer].names.has(namespace, name):
            if not self._layers[layer].count:
                namespace[name] = original
            self._replace(namespace, name, original, value, layer)

    def _learn(self, module: ModuleType) -> None:
        """Make the shims for what a module asks, by the libraries' tables and by its caches."""
        namespace, layer = vars(module), of_module(module.__name__)
        answers, deep = self._answers.get(module.__name__, {}), self._deep.get(module.__name__, {})
        for name in {**answers, **deep}:
            original = namespace.get(name)
            if original is not None and not (id(original) in self._originals or id(original) in self._by_original):
                if not _is_of(module, original):
                    self._strange.append((module, name, original))
                if name in answers:
                    answer, library = answers[name]
                    made = shim(original, answer, library.ask, deep.get(name))
                    self._know(original, made, library.layer_of(name) or layer)
                else:
                    self._know(original, shim(original, ORIGINAL, running, deep.get(name)), TENSORS)
        self._learn_classes(module, layer)
        for cache, of_cache in scan.device_caches(module, self._layer_of):
            if id(cache) not in self._by_original:
                self._know(cache, cached_shim(cache), of_cache)

    def _learn_classes(self, module: ModuleType, layer: str) -> None:
        for library in self._libraries:
            for of_class, classes in ((layer, library.classes), (TENSORS, library.tensor_classes)):
                for name, make in classes.get(module.__name__, {}).items():
                    original = vars(module).get(name)
                    if original is not None and id(original) not in self._originals:
                        self._know(original, make(original), of_class)

    def _layer_of(self, function: object) -> str | None:
        known = self._by_original.get(id(function))
        return None if known is None else known[1]

    def _know(self, original: Any, replacement: Any, layer: str) -> None:
        # Both are kept for good, so that their ids are not given to anything else.
        self._by_original[id(original)] = replacement, layer
        self._originals[id(replacement)] = original, layer

    def _stand_in(self, module: ModuleType) -> None:
        """Replace constants: by their names, since their values are no identities."""
        for library in self._libraries:
            self._stand_in_of(library, module)
        for owner, name, cache, layer, wrapper in scan.method_caches(module, self._layer_of):
            self._stand_in_class(owner, name, wrapper(cached_shim(cache)), vars(owner)[name], layer)
        if scan.package_of(module.__name__) in PAUSED:
            for owner, kept in scan.shared_instances(module):
                self._stand_in_class(owner, scan.INSTANCES, OfEachSimulation(kept), kept, ALWAYS)

    def _stand_in_of(self, library: Library, module: ModuleType) -> None:
        """Replace what one library names of a module: constants, attributes of the module, and of its classes."""
        namespace, always = vars(module), self._layers[ALWAYS]
        for name, make in library.constants_of(module.__name__).items():
            layer = library.layer_of(name) or of_name(name)
            if name in namespace and not self._layers[layer].names.has(namespace, name):
                self._replace(namespace, name, namespace[name], make(namespace[name]), layer)
        attributes, missing = library.attributes.get(module.__name__), library.missing.get(module.__name__)
        if (attributes or missing) and id(namespace) not in always.attributes:
            of_module = always.attributes[id(namespace)] = _attribute_patch(namespace, attributes or {}, missing)
            if always.count:
                of_module.put()
        for layer, table in ((ALWAYS, library.class_attributes), (TENSORS, library.tensor_class_attributes)):
            for path, make in table.get(module.__name__, {}).items():
                class_name, _, name = path.partition(".")
                owner = namespace.get(class_name)
                if owner is not None and hasattr(owner, name):
                    # As it stands in the class: a property would be asked otherwise.
                    original = vars(owner).get(name, getattr(owner, name))
                    self._stand_in_class(owner, name, make(original), original, layer)

    def _stand_in_class(self, owner: Any, name: str, replacement: Any, original: Any, layer: str) -> None:
        of_layer = self._layers[layer]
        if not of_layer.classes.has(owner, name):
            of_layer.classes.add(owner, name, replacement, original, live=of_layer.count > 0)


def _is_of(module: ModuleType, function: object) -> bool:
    """Whether a function is the library's own, and none that a test has put there."""
    place = getattr(function, "__module__", None)
    return not isinstance(place, str) or scan.package_of(place) == scan.package_of(module.__name__)


def _attribute_patch(
    namespace: dict[str, Any], answers: Mapping[str, Answer], missing: Callable[[Simulation, str], Any] | None
) -> AttributePatch:
    originals = {name: namespace[name] for name in answers if name in namespace}

    def get(name: str) -> Any:
        simulation = running()
        if name in originals:
            return originals[name] if simulation is None else answers[name](simulation)
        found = None if simulation is None or missing is None else missing(simulation, name)
        if found is None:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        return found

    return AttributePatch(namespace, tuple(originals), get)
