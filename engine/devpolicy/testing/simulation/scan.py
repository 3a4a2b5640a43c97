"""What loaded modules hold: which are new, and which of their caches would freeze an answer about devices.

Owns the reading of `sys.modules`. It replaces nothing.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType, ModuleType
from typing import Any

_CACHE = type(functools.lru_cache(lambda: None))

DEVICE_WORDS = frozenset(
    {"accelerator", "cuda", "hpu", "mlu", "mps", "musa", "npu", "nvmlInit", "virtual_memory", "xpu"}
)
"""Names that show, in a function's code, that it asks about devices."""


class Seen:
    """Which modules have been looked at."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._last = (0, "")

    def new(self) -> list[ModuleType]:
        """Return the modules that are loaded and were not returned before; those that are still loading come later."""
        # Modules are rarely removed, and a new one comes last: nearly always this is all that is looked at.
        latest = (len(sys.modules), next(reversed(sys.modules), ""))
        if latest == self._last:
            return []
        found = []
        settled = True
        for name, module in list(sys.modules.items()):
            if not isinstance(module, ModuleType) or self._ids.get(name) == id(module):
                continue
            if getattr(module.__spec__, "_initializing", False):
                settled = False
                continue
            self._ids[name] = id(module)
            found.append(module)
        self._last = latest if settled else (0, "")
        return found


def device_caches(module: ModuleType, known: set[str]) -> list[Any]:
    """Return the `functools` caches of a module whose functions ask about devices.

    Told by the names in their code: words for devices, or names in `known`, to which those found are added. A
    function that asks only through others, neither cached nor known, is not found.
    """
    candidates = [value for value in list(vars(module).values()) if type(value) is _CACHE]
    found: list[Any] = []
    while True:
        asking = [cache for cache in candidates if cache not in found and _names_of(cache) & (DEVICE_WORDS | known)]
        if not asking:
            return found
        found += asking
        known |= {cache.__name__ for cache in asking}


def _names_of(cache: Any) -> set[str]:
    function = cache.__wrapped__
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return _names_in(code) if code else set()


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
