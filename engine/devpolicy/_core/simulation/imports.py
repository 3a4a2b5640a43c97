"""Imports while a host is simulated.

A library that is imported for the first time inside a simulation would take the simulated host for the real one, and
keep what it found: constants, caches, optional parts for hardware that is not there. So its modules run with the
simulation paused, and what they ask later is replaced as soon as the whole import is done. Owns that hook and the names
of the libraries that it is for; a user's own modules run inside the simulation, and so do those that a library has for
test suites: their constants are what a suite asks for its device.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from devpolicy._core.loaders import run_by
from devpolicy._core.simulation.running import paused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PAUSED = frozenset(
    {
        "accelerate",
        "bitsandbytes",
        "cupy",
        "cupyx",
        "devpolicy",
        "diffusers",
        "haystack",
        "haystack_integrations",
        "onnx",
        "onnxruntime",
        "optimum",
        "peft",
        "psutil",
    }
    | {"pynvml", "sentence_transformers", "spacy", "spacy_transformers", "curated_transformers", "thinc"}
    | {"torch", "torchaudio", "torchvision", "transformers", "triton"}
)

_FOR_SUITES = frozenset({"testing", "testing_utils", "test_utils"})
"""Parts of the names of modules that hold such constants, as `transformers.testing_utils` has `torch_device`."""


class ImportHook:
    """A finder that finds nothing itself: it asks the others, and runs the modules of these libraries."""

    def __init__(self, loaded: Callable[[list[ModuleType]], None]) -> None:
        self._loaded = loaded
        self._asking = threading.local()
        self._importing = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give; its loader runs the module with the simulation paused."""
        # A finder that asks the others as well would come back here.
        if not _runs_paused(name) or getattr(self._asking, "name", None) == name:
            return None
        self._asking.name = name
        try:
            spec = self._ask_others(name, path, target)
        finally:
            self._asking.name = None
        if spec is not None:
            run_by(spec, self._run)
        return spec

    def _ask_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                return spec
        return None

    def _run(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        # A package's modules hold functions of one another before the one that defines them is done: all of them are
        # looked at together, when the import that loaded them is.
        outermost = not hasattr(self._importing, "modules")
        if outermost:
            self._importing.modules = []
        modules = self._importing.modules
        try:
            with paused():
                run(module)
            modules.append(module)
        finally:
            if outermost:
                del self._importing.modules
                self._loaded(modules)


def _runs_paused(module: str) -> bool:
    package, *parts = module.split(".")
    return package in PAUSED and (package == "devpolicy" or _FOR_SUITES.isdisjoint(parts))
