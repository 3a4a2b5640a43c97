"""RAM and disk: psutil and shutil."""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

from devpolicy.testing.simulation.running import paused

if TYPE_CHECKING:
    from devpolicy.testing.simulation.libraries import Answers
    from devpolicy.testing.simulation.running import Simulation


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
    os.stat(path)
    host = simulation.host
    _raise_fault(simulation, "disk")
    return shutil._ntuple_diskusage(host.disk, host.disk - host.disk_free, host.disk_free)


@cache
def _shape_of(question: str, *arguments: Any) -> Any:
    """Return psutil's tuple for an answer here. Its fields differ by system and version, so the real one is asked."""
    import psutil

    with paused():
        return type(getattr(psutil, question)(*arguments))


def _raise_fault(simulation: Simulation, source: str) -> None:
    fault = simulation.host.fault(source)
    if fault:
        raise OSError(fault)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


ANSWERS: Answers = {"psutil": {"virtual_memory": virtual_memory}, "shutil": {"disk_usage": disk_usage}}
