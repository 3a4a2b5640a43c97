"""A process that left the simulated host of the one that started it, and says so where torch finds no device.

Owns those words, and where in torch they are added. It imports nothing heavy: a process that `multiprocessing` spawns
imports it before its work begins. Nothing is installed: what says it travels with the process object.
"""

from __future__ import annotations

import sys
from functools import partial, wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from devpolicy._core.loaders import run_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TYPES = ("cuda", "xpu")


class Left:
    """What a process object carries to the child: unpickled there, it is said what was left."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __reduce__(self) -> tuple[Any, ...]:
        return say, (self.host,)


def say(host: str) -> None:
    """Have torch's errors in this process name the host that it left."""
    words = (
        f"this process left the simulated host `{host}` of the one that started it, and sees the real machine: with "
        "`children=True`, or `--devpolicy-children`, it is on the host too"
    )
    if "torch" in sys.modules:
        _add(words)
    else:
        sys.meta_path.insert(0, _WhenLoaded(words))


class _WhenLoaded:
    """A finder that finds nothing itself: it adds the words once torch was imported."""

    def __init__(self, words: str) -> None:
        self._words = words

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give of torch."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            run_by(spec, self._run)
        return spec

    def _run(self, run: Any, module: ModuleType) -> None:
        run(module)
        _add(self._words)


def _add(words: str) -> None:
    for type_ in TYPES:
        lazy_init = getattr(sys.modules.get(f"torch.{type_}"), "_lazy_init", None)
        if lazy_init is not None:
            _replace(type_, lazy_init, _noted(lazy_init, words))
    half = sys.modules.get("torch._C")
    if half is not None:
        vars(half).setdefault("__getattr__", partial(_missing, words))


def _replace(type_: str, original: Any, noted: Any) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith(f"torch.{type_}") and vars(module).get("_lazy_init") is original:
            vars(module)["_lazy_init"] = noted


def _noted(function: Any, words: str) -> Any:
    @wraps(function)
    def call() -> None:
        try:
            function()
        except Exception as error:
            error.add_note(words)
            raise

    return call


def _missing(words: str, name: str) -> Any:
    """Raise what a module raises; torch's Python code calls what a build for another device does not have."""
    error = AttributeError(f"module 'torch._C' has no attribute {name!r}")
    if name.startswith(tuple(f"_{type_}_" for type_ in TYPES)):
        error.add_note(words)
    raise error
