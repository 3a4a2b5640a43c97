"""A host in a few lines, for the report of a test.

Owns the text alone; a host as a file is `Host.to_toml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator, Host


def describe(host: Host) -> str:
    """Return a line for the machine and one for each accelerator, by the name that torch gives it."""
    machine = f"{host.name or 'a host without a name'}: {host.os} {host.arch}, {_space(host.memory, host.free)} of RAM"
    faults = [f"{source}: {why}" for source, why in host.faults]
    devices = [f"{one.type}:{one.id}  {_accelerator(one)}" for one in host.accelerators]
    return "\n".join([machine, *(devices or ["no accelerators"]), *faults])


def _accelerator(one: Accelerator) -> str:
    name = f"{one.name}, " if one.name else ""
    shared = " shared with the CPU" if one.unified else ""
    return f"{name}{_space(one.memory, one.free)}{shared}{f', faulty: {one.fault}' if one.fault else ''}"


def _space(total: int, free: int) -> str:
    return format_size(total) if free == total else f"{format_size(total)} ({format_size(free)} free)"
