"""Which types of device the torch of a simulated host was built for.

Owns the reading of a host's facts as torch would show them: what is compiled in, how many devices it counts, what
fails. The libraries' modules ask here, so that they all tell the same story.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.simulation.running import Simulation

ROCM = "hip"
"""AMD's CUDA: its devices are of type `cuda`."""
ORDER = ("cuda", "xpu", "mps")
"""The types that torch knows by itself, in the order in which it takes its accelerator."""

NOT_USABLE = "CUDA-capable device(s) is/are busy or unavailable"


def built_for(simulation: Simulation, type_: str) -> bool:
    """Whether torch on that host was built for a type."""
    return host_built_for(simulation.host, type_)


def host_built_for(host: Host, type_: str) -> bool:
    """Whether torch on a host was built for a type, or for ROCm.

    Its version shows it where it has a local part (`2.13.0+cu130`); else what the host has or fails to have shows it.
    """
    local = (host.version("torch") or "").partition("+")[2]
    if type_ == ROCM:
        return local.startswith("rocm")
    if local:
        return type_ == ("cuda" if local.startswith(("cu", "rocm")) else local[:3])
    return any(device.type == type_ for device in host.accelerators) or host.fault(type_) is not None


def count(simulation: Simulation, type_: str) -> int:
    """Return how many devices torch counts: up to the highest ordinal, those that fail too."""
    devices = simulation.devices(type_)
    return max(devices) + 1 if devices and built_for(simulation, type_) else 0


def usable(simulation: Simulation, type_: str, index: int) -> Accelerator:
    """Return a counted device that works. Raises its driver's error where it does not."""
    fault = simulation.host.fault(type_)
    if fault:
        raise RuntimeError(fault)
    device = simulation.devices(type_).get(index)
    if device is None:
        raise device_error(f"{type_.upper()} error: {NOT_USABLE}")
    if device.fault:
        raise device_error(device.fault)
    return device


def device_error(text: str) -> RuntimeError:
    """Return the error that torch raises for an error of a device's driver: for CUDA it has a class of its own."""
    kind: type[RuntimeError] = getattr(sys.modules.get("torch"), "AcceleratorError", RuntimeError)
    return kind(text) if text.startswith("CUDA error:") else RuntimeError(text)


def accelerator_type(simulation: Simulation) -> str | None:
    """Return the type that torch takes as its accelerator: the first that it was built for."""
    return next((type_ for type_ in ORDER if built_for(simulation, type_)), None)
