"""torch.distributed: what its backends take for memory of a GPU is refused, since they would crash on it.

Gloo, which a CPU build of torch has, looks for its CUDA half without asking whether there is one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.held import KINDS
from devpolicy._core.simulation.libraries import Around, Library
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation

REDUCING = ("all_reduce", "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single")


def _on_device(value: Any) -> bool:
    """Whether a tensor, or one of a list, is on a simulated device."""
    if isinstance(value, list | tuple):
        return any(map(_on_device, value))
    return getattr(getattr(value, "device", None), "type", None) in KINDS


def _collective(name: str, simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if _on_device((*args, *kwargs.values())):
        raise refusal(simulation, f"torch.distributed.{name}()")
    return original(*args, **kwargs)


def _data_parallel(original: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is not None and simulation.held is not None and _on_device([*module.parameters()]):
            raise refusal(simulation, "torch.nn.parallel.DistributedDataParallel()")
        return original(self, module, *args, **kwargs)

    return make


LIBRARY = Library(
    tensors={"torch.distributed.distributed_c10d": {name: Around(partial(_collective, name)) for name in REDUCING}},
    class_attributes={"torch.nn.parallel.distributed": {"DistributedDataParallel.__init__": _data_parallel}},
)
