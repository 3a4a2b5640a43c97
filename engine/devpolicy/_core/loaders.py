"""Modules that run in another way, once, when they are imported.

Owns the stand-in for a loader. A loader may be shared by many modules (pytest's, which rewrites assertions), or be a
class, so nothing of it is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Run = Callable[[ModuleType], None]


class _Loader:
    """Stands in for a loader until the module runs, which then has its own."""

    def __init__(self, loader: Any, run: Callable[[Run, ModuleType], None]) -> None:
        self._loader = loader
        self._run = run

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._run(self._loader.exec_module, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def run_by(spec: ModuleSpec, run: Callable[[Run, ModuleType], None]) -> None:
    """Let `run` run a module: it takes what would have, and the module."""
    loader: Any = spec.loader
    if hasattr(loader, "exec_module"):
        made: Any = _Loader(loader, run)
        spec.loader = made
