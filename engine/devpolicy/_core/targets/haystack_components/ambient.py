"""Haystack's components under the policy in use: those that are given no device get the policy's.

Owns what is replaced in Haystack while a policy is in use, and nothing else: how a component is made
(`ComponentMeta.__call__`), and which device "no device" means (`haystack.utils.device._get_default_device`). Both are
put back when the last block is left. Haystack itself is never imported here: where it comes later, it is adapted then.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_DEVICES, _COMPONENTS = "haystack.utils.device", "haystack.core.component.component"

_making: ContextVar[tuple[type, str | None] | None] = ContextVar("devpolicy_making_component", default=None)
"""The class and the name of the component that is being made."""


class Components:
    """What is replaced in Haystack, for as long as someone asks for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wanted = 0
        self._installed = False
        self._replaced: dict[str, tuple[Any, str, Any, Any]] = {}
        self._finder = _Finder(self._adapt)
        self.folder: str | None = None
        """The current folder when it was installed, from which a relative path in `DEVPOLICY` counts."""

    def put(self) -> None:
        """Replace what Haystack asks, now or when it is imported. Each call is answered by one of `take`."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                for name in (_DEVICES, _COMPONENTS):
                    if name in sys.modules:
                        self._adapt(sys.modules[name])
                sys.meta_path.insert(0, self._finder)

    def take(self) -> None:
        """Put everything back, if this was the last one."""
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0:
                if self._finder in sys.meta_path:
                    sys.meta_path.remove(self._finder)
                for owner, name, original, ours in self._replaced.values():
                    # What someone else has put there since is theirs.
                    if vars(owner).get(name) is ours:
                        setattr(owner, name, original)
                self._replaced.clear()

    def install(self) -> None:
        """Replace what Haystack asks for the rest of the process. A second call changes nothing."""
        with self._lock:
            if not self._installed:
                self._installed = True
                with suppress(OSError):  # a folder that was removed
                    self.folder = str(Path.cwd())
                self.put()

    def uninstall(self) -> None:
        """Take `install` back."""
        with self._lock:
            if self._installed:
                self._installed = False
                self.take()

    def _adapt(self, module: ModuleType) -> None:
        with self._lock:
            if self._wanted == 0 or module.__name__ in self._replaced:
                return
            owner, name, around = _POINTS[module.__name__](module)
            original = vars(owner)[name]
            ours = around(original)
            setattr(owner, name, ours)
            self._replaced[module.__name__] = owner, name, original, ours


def _default_device(original: Callable[[], Any]) -> Callable[[], Any]:
    """Return a stand-in for `_get_default_device`, which is asked where a component is given none."""

    @wraps(original)
    def device() -> Any:
        from devpolicy._core.targets.haystack_components.filling import default_of

        making = _making.get() or _running()
        found = default_of(*(making or (None, None)))
        return original() if found is None else found

    return device


def _made(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in for the call that makes a component."""

    @wraps(original)
    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        from devpolicy._core.targets.haystack_components.filling import fill

        around = _making.get()
        filled = fill(cls, args, kwargs, None if around is None else around[1])
        if filled is None:
            return original(cls, *args, **kwargs)
        token = _making.set((cls, filled.name))
        try:
            made = original(cls, *filled.args, **filled.kwargs)
        except BaseException:
            filled.release()
            raise
        finally:
            _making.reset(token)
        filled.keep_while(made)
        return made

    return make


def _running() -> tuple[type, str | None] | None:
    """Return the class and the name of the component that asks for its device after it was made: at warm-up, say."""
    meta = getattr(sys.modules.get(_COMPONENTS), "ComponentMeta", None)
    frame = sys._getframe(1)
    while meta is not None and frame is not None:
        # Only of methods: a frame that is asked for its variables keeps them alive.
        one = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
        if isinstance(type(one), meta):
            pipeline = getattr(one, "__haystack_added_to_pipeline__", None)
            return type(one), pipeline.get_component_name(one) if pipeline is not None else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


_POINTS: Mapping[str, Callable[[Any], tuple[Any, str, Callable[[Any], Any]]]] = {
    _DEVICES: lambda module: (module, "_get_default_device", _default_device),
    _COMPONENTS: lambda module: (module.ComponentMeta, "__call__", _made),
}


class _Finder:
    """A finder that finds nothing itself: it asks the others for the two modules, and adapts them once they ran."""

    def __init__(self, adapt: Callable[[ModuleType], None]) -> None:
        self._adapt = adapt
        self._asking = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give, with a loader that adapts the module."""
        if name not in _POINTS or getattr(self._asking, "now", False):
            return None
        self._asking.now = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.now = False
        loader: Any = None if spec is None else spec.loader
        if loader is not None and hasattr(loader, "__dict__"):
            run = loader.exec_module

            def run_and_adapt(module: ModuleType) -> None:
                del loader.exec_module
                run(module)
                self._adapt(module)

            loader.exec_module = run_and_adapt
        return spec


COMPONENTS = Components()
"""The one of this process."""
