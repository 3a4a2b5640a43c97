"""What devpolicy itself asks: the probe."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import devpolicy.probe  # noqa: F401 - it must be loaded before it can be replaced, and `Host.probe` loads it late
from devpolicy.host import Accelerator, Host
from devpolicy.testing.simulation.libraries import Library
from devpolicy.testing.simulation.running import running_for_us

if TYPE_CHECKING:
    from devpolicy.testing.simulation.running import Simulation


def probe(simulation: Simulation, disk_path: Any = None, *, timeout: float = 0.0) -> Host:
    """Return the host as it was given, with its own versions of software and not those that are installed here.

    Where a neighbour takes memory, the host as it is at this question.
    """
    host = simulation.host
    if not any(device.neighbour for device in host.accelerators):
        return host
    facts = {entry.name: getattr(host, entry.name) for entry in fields(host) if entry.name != "accelerators"}
    return Host([_now(simulation, device) for device in host.accelerators], **facts)


def _now(simulation: Simulation, device: Accelerator) -> Accelerator:
    facts = {entry.name: getattr(device, entry.name) for entry in fields(device)}
    return Accelerator(**{**facts, "free": simulation.free(device)})


LIBRARY = Library(answers={"devpolicy.probe": {"probe": probe}}, ask=running_for_us)
