"""What devpolicy itself asks, the probe, and what it keeps: policies in use, with the machine that they are used on.

Owns that a probe inside a simulation answers with its host, and that a policy in use plans on it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import devpolicy._core.host.probe  # noqa: F401 - it must be loaded before it can be replaced, and `Host.probe` loads it late
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import running_for_us

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation


def probe(simulation: Simulation, disk_path: Any = None, *, timeout: float = 0.0) -> Host:
    """Return the host as it was given, with its own versions of software and not those that are installed here.

    Where a neighbour takes memory, the host as it is at this question.
    """
    simulation.see_visible()
    host = simulation.host
    if not any(device.memory_pressure for device in host.accelerators):
        return host
    facts = {entry.name: getattr(host, entry.name) for entry in fields(host) if entry.name != "accelerators"}
    return Host([_now(simulation, device) for device in host.accelerators], **facts)


def _now(simulation: Simulation, device: Accelerator) -> Accelerator:
    facts = {entry.name: getattr(device, entry.name) for entry in fields(device)}
    return Accelerator(**{**facts, "free": simulation.free(device)})


def _of_each_simulation(original: property) -> property:
    """Return a property of a `PolicyContext` that has a value of its own on each simulated host.

    A block probes once and keeps what was resolved, for the whole process where `DEVPOLICY` names its policy: what it
    learnt of a simulated host would be there after it, and what it knows of this machine would be there on the host.
    """
    get: Any = original.fget

    def get_here(block: Any) -> Any:
        simulation = running_for_us()
        if simulation is None or block.given is not None:
            return get(block)
        blocks = simulation.memo.setdefault(_of_each_simulation, {})
        with block.lock:
            if block not in blocks:
                blocks[block] = here = type(block)(block.policy, None)
                blocks[here] = here
        return get(blocks[block])

    return property(get_here, doc=original.__doc__)


LIBRARY = Library(
    answers={"devpolicy._core.host.probe": {"probe": probe}},
    class_attributes={
        "devpolicy._core.verbs.context": {
            "PolicyContext.joint": _of_each_simulation,
            "PolicyContext.effective": _of_each_simulation,
        }
    },
    ask=running_for_us,
)
