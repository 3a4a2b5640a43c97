"""accelerate: its memory budget, its `nvidia-smi`, and its singletons.

`get_max_memory` makes a tensor on each device, and takes any error for "not usable": with tensors refused it would
answer that there is only a CPU. So there, and only there, the tensor is let through, on the CPU. `PartialState` and
its like keep one dict for all instances; under a simulation each has a dict of that simulation.
"""

from __future__ import annotations

import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import accelerator_type, usable
from devpolicy._core.simulation.patched_libraries import Around, Library
from devpolicy._core.simulation.patched_libraries.constants import OfEachSimulation
from devpolicy._core.simulation.patched_libraries.torch_devices import device_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation


def get_max_memory(simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Ask accelerate's own function, with the tensors that it tries let through where the device works."""
    with _trial_class()(simulation):
        return original(*args, **kwargs)


@cache
def _trial_class() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    class Trial(TorchFunctionMode):
        """Makes on the CPU what is tried on a simulated device, or raises what the device's fault is."""

        def __init__(self, simulation: Simulation) -> None:
            super().__init__()
            self.simulation = simulation

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            device = given.get("device")
            if func is torch.tensor and device is not None:
                type_ = accelerator_type(self.simulation) if isinstance(device, int) else torch.device(device).type
                if type_ in ("cuda", "xpu"):
                    usable(self.simulation, type_, device_index(type_, self.simulation, device))
                    given["device"] = "cpu"
            return func(*args, **given)

    return Trial


def get_gpu_info(simulation: Simulation) -> tuple[list[str], int]:
    """Return names and number of NVIDIA's devices, which accelerate asks of `nvidia-smi`."""
    names = [device.name or "" for device in simulation.devices("cuda").values()]
    if simulation.host.fault("nvml") or not names:
        raise FileNotFoundError("nvidia-smi finds no device on the simulated host")
    return names, len(names)


def get_driver_version(simulation: Simulation) -> str:
    """Return the driver's version, which accelerate asks of `nvidia-smi`."""
    version = simulation.host.version("driver")
    if version is None:
        raise FileNotFoundError("nvidia-smi finds no driver on the simulated host")
    return version


class SharedState(OfEachSimulation):
    """The dict that all instances of a class share."""

    def begun(self, simulation: Simulation) -> None:
        """Take back what accelerate is about to set."""
        _keep_out_of_environment(simulation)


def _keep_out_of_environment(simulation: Simulation) -> None:
    """Take the variable that accelerate sets on a Mac back, when the simulation ends, if it was not set before."""
    if MPS_FALLBACK not in os.environ:
        simulation.restore.append(partial(os.environ.pop, MPS_FALLBACK, None))


MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
STATES = ("PartialState", "AcceleratorState", "GradientState")

LIBRARY = Library(
    answers={
        "accelerate.utils.environment": {"get_driver_version": get_driver_version, "get_gpu_info": get_gpu_info},
        "accelerate.utils.modeling": {"get_max_memory": Around(get_max_memory)},
    },
    class_attributes={"accelerate.state": {f"{name}._shared_state": SharedState for name in STATES}},
)
