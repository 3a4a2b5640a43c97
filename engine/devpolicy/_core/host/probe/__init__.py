"""This machine as a `Host`, queried once.

Owns every query of the real machine. Three rules: nothing is initialised in this process (no CUDA context, no
import of torch), the environment is read and never changed, and a source that raises or hangs becomes
a fault of the host, never an exception.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from devpolicy._core.child_process import ask
from devpolicy._core.errors import HostError
from devpolicy._core.host import Host
from devpolicy._core.host.probe import system
from devpolicy._core.host.probe.devices import PLUGINS, Sources, accelerators
from devpolicy._core.host.probe.hardware_hints import vendors
from devpolicy._core.host.probe.probe_result import ProbeResult, reason, with_timeout
from devpolicy._core.host.probe.torch_child import probe_in_child, questions, read_result
from devpolicy._core.host.probe.torch_probe import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devpolicy._core.host.probe.system import Amount

__all__ = ["probe"]

TIMEOUT = 20.0
"""Seconds that a source has to answer. Importing torch from a cold disk takes most of them."""


def probe(disk_path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT) -> Host:
    """Query this machine and return it as a host.

    `disk_path`: where offloaded weights would be written, by default the current folder. `timeout`: seconds for each
    source that can hang. Takes milliseconds without an accelerator, some 50 more where NVML is asked, and the seconds
    that importing torch takes where torch is; both in a child process. Raises `HostError` for a `disk_path` that is no
    path, and for nothing else.
    """
    if disk_path is not None and not isinstance(disk_path, str | os.PathLike):
        raise HostError(f"`disk_path` is a path, not a value of type {type(disk_path).__name__}")
    faults: dict[str, str] = {}
    memory = _amount("psutil", system.ram, timeout, faults)
    # A disk can hang as well: one of the network that is gone.
    disk = _amount("disk", partial(system.disk, disk_path), timeout, faults)
    system_name, arch = system.system_and_arch()
    found = accelerators(_sources(system_name, arch, timeout), memory, dict(os.environ))
    return Host(
        found.accelerators,
        memory=memory.total,
        free=memory.free,
        disk=disk.total,
        disk_free=disk.free,
        os=system_name,
        arch=arch,
        versions={**system.versions(), **dict(found.versions)},
        faults={**faults, **dict(found.faults)},
    )


def _amount(source: str, ask: Callable[[], Amount], timeout: float, faults: dict[str, str]) -> Amount:
    try:
        return with_timeout(timeout, ask)
    except Exception as error:  # noqa: BLE001 - whatever a source raises becomes its fault
        faults[source] = reason(error)
        return system.Amount(0, 0)


def _sources(system_name: str, arch: str, timeout: float) -> Sources:
    return Sources(
        hardware_hints=vendors(system_name, arch),
        ask_nvml=_nvml(timeout),
        torch=system.torch_build(),
        plugins=frozenset(name for name in PLUGINS.values() if _installed(name)),
        ask_torch=partial(_ask_torch, timeout=timeout),
    )


def _nvml(timeout: float) -> Callable[[], dict[str, Any]] | None:
    # Only nvidia-ml-py: an unrelated distribution named pynvml also gives a module `pynvml`, and warns on import.
    try:
        folder = str(metadata.distribution("nvidia-ml-py").locate_file(""))
    except metadata.PackageNotFoundError:
        return None
    return lambda: ask([*questions("nvml", timeout), folder], timeout)


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _ask_torch(types: Sequence[str], timeout: float) -> dict[str, ProbeResult]:
    """Ask a child process, except for what a loaded torch answers without initialising anything: mps."""
    torch = sys.modules.get("torch")
    here = [name for name in types if name == "mps" and torch is not None]
    elsewhere = [name for name in types if name not in here]
    told = {name: read_result(name, told) for name, told in answers(torch, here).items()}
    return told | (probe_in_child(elsewhere, timeout) if elsewhere else {})
