"""torch's fake tensors, which have a device and no memory, at the depth where devices hold nothing.

A machine without a GPU has fake tensors of one: torch initialises nothing for them there. On a simulated host it would
initialise the GPU that it was told of, which is refused, so it is told that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.patched_libraries import ORIGINAL, Library
from devpolicy._core.simulation.running import paused, running

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation

MODULE = "torch._subclasses.fake_tensor"


def _init_gpu_context(simulation: Simulation, device: Any) -> None:
    """Do nothing: there is no context."""


def _avoid_device_init(original: property) -> property:
    get: Any = original.fget

    def avoid(self: Any) -> bool:
        simulation = running()
        if simulation is None or simulation.backend is not None:
            return bool(get(self))
        with paused():
            return bool(get(self))

    return property(avoid, doc=original.__doc__)


LIBRARY = Library(
    answers={MODULE: {"init_gpu_context": _init_gpu_context}},
    tensors={MODULE: {"init_gpu_context": ORIGINAL}},
    class_attributes={MODULE: {"FakeTensorMode.avoid_device_init": _avoid_device_init}},
)
