"""`torch.version.cuda` and `.hip`: for which toolkit torch was built.

They are plain values, so under a simulation they are taken out of their module, and its `__getattr__` answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import ROCM, built_for
from devpolicy._core.simulation.patched_libraries import Library

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation

UNKNOWN = "unknown"
"""The version where a host does not give it: enough for `is not None`, and no number for who needs one."""


def cuda(simulation: Simulation) -> str | None:
    """Return CUDA's version, `None` where torch was built without it."""
    local = _local(simulation)
    if local.startswith("cu") and local[2:].isdigit():
        return f"{local[2:-1]}.{local[-1]}"
    return UNKNOWN if built_for(simulation, "cuda") and not built_for(simulation, ROCM) else None


def hip(simulation: Simulation) -> str | None:
    """Return ROCm's version, `None` where torch was built without it."""
    return _local(simulation).removeprefix("rocm") or UNKNOWN if built_for(simulation, ROCM) else None


def _local(simulation: Simulation) -> str:
    return (simulation.host.version("torch") or "").partition("+")[2]


ANSWERS: dict[str, Any] = {"cuda": cuda, "hip": hip}
LIBRARY = Library(attributes={"torch.version": ANSWERS})
