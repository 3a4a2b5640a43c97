"""Storages on simulated devices, and what hands memory to others.

A CPU build of torch makes tensors on every device that has an allocator, and storages on few: saving, loading and
copying make storages, so there they are taken from tensors. Memory that a consumer would take for a GPU's is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import SimulationDepthError
from devpolicy._core.simulation.patched_libraries import Around, Library
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import running
from devpolicy._core.simulation.tensor_backend import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devpolicy._core.simulation.patched_libraries import Make
    from devpolicy._core.simulation.running import Simulation


def _storage(size: int, device: Any) -> Any:
    """Return a new storage of `size` bytes."""
    import torch

    return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()


def _to(
    simulation: Simulation, original: Callable[..., Any], storage: Any, device: Any, non_blocking: bool = False
) -> Any:
    """Return a copy of a storage on a device."""
    if device.type not in KINDS or storage.device == device:
        return original(storage, device, non_blocking)
    return _storage(storage.nbytes(), device).copy_(storage, non_blocking)


def _holds(thing: Any) -> Simulation | None:
    """Return the simulation that a tensor or a storage belongs to, `None` where it is on a real device."""
    simulation = running()
    return simulation if simulation and simulation.backend is not None and thing.device.type in KINDS else None


def _clone(original: Callable[..., Any]) -> Callable[..., Any]:
    def clone(self: Any) -> Any:
        return original(self) if _holds(self) is None else _storage(self.nbytes(), self.device).copy_(self)

    return clone


def _mps(original: Callable[..., Any]) -> Callable[..., Any]:
    def mps(self: Any) -> Any:
        simulation = running()
        if simulation is None or simulation.backend is None or self.device.type == "mps":
            return original(self)
        return _storage(self.nbytes(), "mps").copy_(self)

    return mps


def _resize(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that gives a storage more memory, or frees it. torch's own is compiled for CUDA or not."""

    def resize(self: Any, size: int) -> Any:
        simulation = _holds(self)
        if simulation is None or simulation.backend is None:
            return original(self, size)
        simulation.backend.resize_storage(self, int(size))
        return self

    return resize


def _make(original: Callable[..., Any]) -> Any:
    """Return what makes a storage on a device: torch's own takes no device that it was not compiled for."""

    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is not None and simulation.backend is not None and "device" in kwargs:
            import torch

            device = torch.device(kwargs["device"])
            if device.type in KINDS:
                given = args[0] if args else kwargs.get("size", 0)
                if isinstance(given, int):
                    return _storage(given, device)
                there = _storage(len(given), device)
                return there.copy_(original(cls, given))
        return original(cls, *args, **kwargs)

    return staticmethod(make)


def _from_dlpack(simulation: Simulation, original: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if getattr(getattr(tensor, "device", None), "type", None) in KINDS:
        raise refusal(simulation, "torch.from_dlpack()")
    return original(tensor, *args, **kwargs)


def _to_dlpack(simulation: Simulation, original: Callable[..., Any], tensor: Any) -> Any:
    if tensor.device.type in KINDS:
        raise refusal(simulation, "torch.utils.dlpack.to_dlpack()")
    return original(tensor)


def _refused(name: str) -> Make:
    """Return what makes a method refuse tensors of simulated devices."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            simulation = _holds(self)
            if simulation is not None:
                raise refusal(simulation, f"tensor.{name}")
            return original(self, *args, **kwargs)

        return method

    return make


def _share(original: Callable[..., Any]) -> Callable[..., Any]:
    def share(self: Any, *args: Any, **kwargs: Any) -> Any:
        held = self._untyped_storage
        if _holds(held) is not None:
            raise _not_handed_over(held.device)
        return original(self, *args, **kwargs)

    return share


def _fetch(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes a batch of a `DataLoader`, and raises in a worker if that is on a simulated device.

    A queue pickles in a thread of its own, where what is raised is printed, and who waits for the batch waits on.
    """

    def fetch(self: Any, *args: Any) -> Any:
        from torch.utils.data import get_worker_info

        batch = original(self, *args)
        if get_worker_info() is not None:
            for tensor in _tensors(batch):
                if _holds(tensor) is not None:
                    raise _not_handed_over(tensor.device)
        return batch

    return fetch


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the tensors in lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_tensors, value))


def _not_handed_over(device: Any) -> SimulationDepthError:
    return SimulationDepthError(
        f"a tensor on the simulated device `{device}` cannot be handed to another process: hand over `tensor.cpu()`"
    )


def _refused_property(name: str) -> Make:
    def make(original: Any) -> Any:
        method = _refused(name)(original.fget)
        return property(method)

    return make


LIBRARY = Library(
    tensors={
        "torch._utils": {"_to": Around(_to)},
        "torch.utils.dlpack": {"from_dlpack": Around(_from_dlpack), "to_dlpack": Around(_to_dlpack)},
    },
    tensor_class_attributes={
        "torch.storage": {
            "UntypedStorage.__new__": _make,
            "_StorageBase.clone": _clone,
            "_StorageBase.mps": _mps,
            "UntypedStorage.resize_": _resize,
            # How a queue of another process hands over a GPU's memory.
            "TypedStorage._share_cuda_": _share,
        },
        "torch.utils.data._utils.fetch": {"_MapDatasetFetcher.fetch": _fetch, "_IterableDatasetFetcher.fetch": _fetch},
        "torch._tensor": {
            "Tensor.__dlpack__": _refused("__dlpack__()"),
            "Tensor.__cuda_array_interface__": _refused_property("__cuda_array_interface__"),
        },
    },
)
