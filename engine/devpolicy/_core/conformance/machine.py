"""What the libraries of this process report, compared with a host.

Owns the comparison of one host with torch, psutil and shutil as they answer here: on the machine that it was
probed from, or inside `simulate_host`. It initialises the drivers that it asks, which a probe never does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from devpolicy._core.conformance.check import Check, check, hold
from devpolicy._core.host import ACCELERATOR_TYPES, Accelerator, Host

TOLERANCE = 0.05
"""NVML counts memory that the driver keeps for itself (5 % with ECC on some cards), and torch does not."""


def check_machine(host: Host) -> None:
    """Compare what torch, psutil and shutil report in this process with `host`; libraries that are absent are left out.

    Devices and types with a fault are not asked: a driver that hangs would hang this process. Raises
    `ConformanceError`.
    """
    hold(MACHINE_CHECKS, host, host)


def _asked(host: Host) -> Iterator[tuple[str, Any]]:
    """Yield the types without a fault that this torch supports, with its module for them."""
    import torch

    for kind in ACCELERATOR_TYPES:
        module = getattr(torch, kind, None)
        if module is not None and host.fault(kind) is None:
            yield kind, module


def _working(host: Host) -> Iterator[tuple[Accelerator, Any]]:
    for kind, module in _asked(host):
        yield from ((one, module) for one in host.devices(kind) if one.fault is None)


@check(library="torch")
def torch_counts_the_same(host: Host) -> Iterator[str]:
    """Torch counts as many devices of each type, and `is_available` agrees with the count."""
    import torch

    for kind, module in _asked(host):
        devices = host.devices(kind)
        counted = module.device_count()
        if counted != len(devices):
            yield f"torch counts {counted} of `{kind}`, and the host has {len(devices)}"
        asked = torch.backends.mps if kind == "mps" else module
        if asked.is_available() != bool(devices):
            yield f"torch says that `{kind}` is {'' if asked.is_available() else 'not '}available"


@check(library="torch", of_devices=True)
def torch_names_the_same(host: Host) -> Iterator[str]:
    """Torch gives each device the same name."""
    for one, module in _working(host):
        if one.name is not None and one.type in ("cuda", "xpu"):
            name = module.get_device_name(one.id)
            if name != one.name:
                yield f"`{one.type}:{one.id}` is `{name}` for torch, and `{one.name}` on the host"


@check(library="torch", of_devices=True)
def torch_gives_the_same_capability(host: Host) -> Iterator[str]:
    """Torch gives each device the same compute capability."""
    for one, module in _working(host):
        if one.capability is not None:
            capability = tuple(module.get_device_capability(one.id))
            if capability != one.capability:
                yield f"`{one.type}:{one.id}` has {capability} for torch, and {one.capability} on the host"


@check(library="torch", of_devices=True)
def torch_gives_the_same_memory(host: Host) -> Iterator[str]:
    """Torch gives each device as much memory, up to 5 %."""
    for one, module in _working(host):
        if one.type == "mps":
            total = module.recommended_max_memory()
        elif one.type in ("cuda", "xpu"):
            total = module.get_device_properties(one.id).total_memory
        else:
            continue
        if abs(total - one.memory) > TOLERANCE * one.memory:
            yield f"`{one.type}:{one.id}` has {total} bytes for torch, and {one.memory} on the host"


@check(library="psutil")
def psutil_gives_the_ram(host: Host) -> Iterator[str]:
    """Psutil gives at least as much RAM; a container may be allowed less of it."""
    import psutil

    total = psutil.virtual_memory().total
    if host.fault("psutil") is None and total < host.memory:
        yield f"psutil says {total} bytes, and the host has {host.memory}"


@check()
def disk_is_as_large(host: Host) -> Iterator[str]:
    """The disk of the current folder is as large."""
    total = shutil.disk_usage(".").total
    if host.fault("disk") is None and total != host.disk:
        yield f"shutil says {total} bytes, and the host has {host.disk}"


MACHINE_CHECKS: tuple[Check[Host], ...] = (
    torch_counts_the_same,
    torch_names_the_same,
    torch_gives_the_same_capability,
    torch_gives_the_same_memory,
    psutil_gives_the_ram,
    disk_is_as_large,
)
"""What holds for the host that this process runs on, real or simulated."""
