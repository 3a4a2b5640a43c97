"""`torch.compile` and the profiler: what needs a GPU's compiler or its counters.

Dynamo traces as it does elsewhere, with its graph breaks and `fullgraph=True`; what it traced on simulated devices runs
as it stands, where Inductor would need Triton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import running
from devpolicy._core.simulation.tensor_backend import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable


def _on_device(value: Any) -> bool:
    """Whether a value that Dynamo traced is a tensor of a simulated device, or has one."""
    if isinstance(value, list | tuple):
        return any(map(_on_device, value))
    return getattr(getattr(value, "device", None), "type", None) in KINDS


def _held() -> bool:
    simulation = running()
    return simulation is not None and simulation.backend is not None


def _inductor(original: Callable[..., Any]) -> Callable[..., Any]:
    def compile_graph(self: Any, model_: Any, inputs_: Any, **kwargs: Any) -> Any:
        if _held():
            traced = [node.meta.get("example_value") for node in model_.graph.nodes]
            if _on_device([*inputs_, *traced]):
                return model_.forward
        return original(self, model_, inputs_, **kwargs)

    return compile_graph


def _profile(original: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _held() and kwargs.get("use_device") in KINDS:
            # All that runs is the CPU's; torch would look for CUDA's counters at each operator, and say so.
            kwargs["use_device"] = None
        return original(self, *args, **kwargs)

    return make


LIBRARY = Library(
    tensor_class_attributes={
        "torch": {"_TorchCompileInductorWrapper.__call__": _inductor},
        "torch.autograd.profiler": {"profile.__init__": _profile},
    }
)
