"""`torch.nn.DataParallel`: copies to several devices and back, which a CPU build of torch lacks.

Torch's own Python code runs, on what it finds in `torch._C`. Replicas run in threads, which see the simulated host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.patched_libraries import Library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.simulation.running import Simulation


def _broadcast(tensor: Any, devices: Sequence[int]) -> list[Any]:
    """Return the tensor on each device: itself where it is there already."""
    return [tensor.to(_device(index)) for index in devices]


def _broadcast_coalesced(tensors: Sequence[Any], devices: Sequence[int], buffer_size: int) -> list[list[Any]]:
    return [[tensor.to(_device(index)) for tensor in tensors] for index in devices]


def _scatter(
    tensor: Any, devices: Sequence[int], chunk_sizes: Sequence[int] | None, dim: int, streams: Any
) -> list[Any]:
    chunks = tensor.chunk(len(devices), dim) if chunk_sizes is None else tensor.split(list(chunk_sizes), dim)
    return [chunk.to(_device(index)) for chunk, index in zip(chunks, devices, strict=False)]


def _gather(tensors: Sequence[Any], dim: int, destination: int | None) -> Any:
    """Concatenate on a device: the current one for `None`, the CPU for -1."""
    import torch

    where = torch.accelerator.current_device_index() if destination is None else destination
    there = torch.device("cpu") if where < 0 else _device(where)
    return torch.cat([tensor.to(there) for tensor in tensors], dim)


def _device(index: int) -> Any:
    """Return a device of the accelerator's type, which an ordinal alone names."""
    import torch

    found = torch.accelerator.current_accelerator()
    assert found is not None  # INVARIANT: there are tensors on its devices
    return torch.device(found.type, index)


def c_half() -> dict[str, Any]:
    """Return what `torch._C` has for this, by name."""
    return {
        "_broadcast": _broadcast,
        "_broadcast_coalesced": _broadcast_coalesced,
        "_scatter": _scatter,
        "_gather": _gather,
    }


def _forget_streams(simulation: Simulation) -> None:
    """Let torch make its streams for copies anew, a list as long as this host has devices, and after it too."""
    from torch.nn.parallel import _functions

    def forget() -> None:
        _functions._streams = None

    forget()
    simulation.restore.append(forget)


def _balanced(simulation: Simulation, devices: Any) -> None:
    """Do nothing: torch would compare counts of multiprocessors, which a host does not have, to warn."""


def _no_nccl(simulation: Simulation, tensors: Any) -> bool:
    return False


LIBRARY = Library(
    tensors={
        "torch.nn.parallel.data_parallel": {"_check_balance": _balanced},
        "torch.cuda.nccl": {"is_available": _no_nccl},
    },
    tensors_entered=_forget_streams,
)
