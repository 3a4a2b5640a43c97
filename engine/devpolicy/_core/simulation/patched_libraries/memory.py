"""RAM and disk: psutil and shutil.

Owns the figures of a host in the types that these two libraries return.
"""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import paused

if TYPE_CHECKING:
    from devpolicy._core.simulation.patched_libraries import Answer
    from devpolicy._core.simulation.running import Simulation


COMMON = {
    "virtual_memory": namedtuple("svmem", "total available percent used free"),
    "disk_usage": namedtuple("sdiskusage", "total used free percent"),
}
"""The fields that psutil's answers have on every system."""

_shapes: dict[str, Any] = {}


def virtual_memory(simulation: Simulation) -> Any:
    """Answer with psutil's own tuple; what a host does not know of (buffers, cached) is 0."""
    host = simulation.host
    _raise_fault(simulation, "psutil")
    used = host.memory - host.free
    known = {
        "total": host.memory,
        "available": host.free,
        "percent": _percent(used, host.memory),
        "used": used,
        "free": host.free,
    }
    shape = _shape_of("virtual_memory")
    return shape(**{name: known.get(name, 0) for name in shape._fields})


def disk_usage(simulation: Simulation, path: Any) -> Any:
    """Answer for every path that exists: a host has one disk."""
    if not isinstance(path, int):
        Path(path).stat()
    host = simulation.host
    _raise_fault(simulation, "disk")
    return shutil._ntuple_diskusage(host.disk, host.disk - host.disk_free, host.disk_free)


def _shape_of(question: str, *arguments: Any) -> Any:
    """Return psutil's tuple for an answer here. Its fields differ by system and version, so the real one is asked."""
    if question not in _shapes:
        import psutil

        with paused():
            shape = type(getattr(psutil, question)(*arguments))
        if not hasattr(shape, "_fields"):
            # A test has put something of its own in psutil's place, and will take it away.
            return COMMON[question]
        _shapes[question] = shape
    return _shapes[question]


def psutil_disk_usage(simulation: Simulation, path: str) -> Any:
    """Answer the same with psutil's tuple."""
    total, used, free = disk_usage(simulation, path)
    shape = _shape_of("disk_usage", path)
    return shape(total=total, used=used, free=free, percent=_percent(used, total))


def _raise_fault(simulation: Simulation, source: str) -> None:
    fault = simulation.host.fault(source)
    if fault:
        raise OSError(fault)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


ANSWERS: dict[str, dict[str, Answer]] = {
    "psutil": {"disk_usage": psutil_disk_usage, "virtual_memory": virtual_memory},
    "shutil": {"disk_usage": disk_usage},
}
LIBRARY = Library(answers=ANSWERS)
