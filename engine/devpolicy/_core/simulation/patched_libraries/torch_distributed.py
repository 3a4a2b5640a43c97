"""torch.distributed: groups of processes whose ranks hold tensors on simulated devices.

A CPU build of torch has gloo, which looks for its CUDA half without asking whether there is one, and no nccl. Where
devices hold tensors, gloo's groups are made to work on their memory, and groups of nccl are such groups of gloo under
its name.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import count
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.patched_libraries.torch_tensors import swap
from devpolicy._core.simulation.running import running
from devpolicy._core.simulator.loading import load

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation

C10D = "torch.distributed.distributed_c10d"
TIMEOUT = timedelta(minutes=10)
NCCL_VERSION = (2, 28, 9)
"""The version that the tested torch's builds for CUDA bring along."""


class _Group(type):
    """The type of a class that replaces gloo's: its groups work on simulated devices too."""

    original: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = cls.original(*args, **kwargs)
        simulation = running()
        return made if simulation is None or simulation.backend is None else load().GroupOnDevices(made, "gloo")

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original) or _is_group(instance, "gloo")

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.original, name)


def _gloo(original: Any) -> Any:
    return _Group(original.__name__, (), {"original": original, "__module__": C10D, "__doc__": original.__doc__})


def _is_group(instance: object, name: str) -> bool:
    return type(instance).__name__ == "GroupOnDevices" and getattr(instance, "name", str)() == name


class _Nccl(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return _is_group(instance, "nccl")


@cache
def nccl_class() -> Any:
    """Return the class that replaces `ProcessGroupNCCL` of a build of torch for CUDA."""
    from torch._C._distributed_c10d import Backend, PrefixStore, ProcessGroupGloo

    class Options(Backend.Options):
        """The options of a group. Those of nccl alone are kept and change nothing."""

        def __init__(self, is_high_priority_stream: bool = False) -> None:
            super().__init__("nccl", TIMEOUT)
            self.is_high_priority_stream = is_high_priority_stream

    class ProcessGroupNCCL(metaclass=_Nccl):
        """A group of processes, in nccl's place."""

        def __new__(cls, store: Any, rank: int, size: int, options: Any = None) -> Any:
            options = Options() if options is None else options

            def connect(rank: int, size: int, name: str) -> Any:
                return ProcessGroupGloo(PrefixStore(name, store), rank, size, options._timeout)

            return load().GroupOnDevices(rank, size, options, connect, "nccl")

    ProcessGroupNCCL.__module__ = C10D
    ProcessGroupNCCL.Options = Options  # type: ignore[attr-defined]
    return ProcessGroupNCCL


def _begin(simulation: Simulation) -> None:
    """Let groups take the host's tensors, those that there are already too, and torch have nccl where it has CUDA."""
    module = sys.modules.get(C10D)
    if module is None:
        return
    for group in module._world.pg_map:
        _let_take_devices(group)
    if count(simulation, "cuda"):
        _put_nccl(simulation, module)


def _let_take_devices(group: Any) -> None:
    """Give a group that was made before the host a backend for its devices, which it keeps."""
    import torch
    from torch._C._distributed_c10d import ProcessGroup, ProcessGroupGloo

    for device in group._device_types:
        backend = None if device.type == "cpu" else group._get_backend(device)
        if isinstance(backend, ProcessGroupGloo) and not _is_group(backend, "gloo"):
            on_devices = load().GroupOnDevices(backend, "gloo")
            # Of another type, since a group has one backend for each.
            group._register_backend(torch.device(device.type), ProcessGroup.BackendType.CUSTOM, on_devices)


def _put_nccl(simulation: Simulation, module: Any) -> None:
    swap(simulation, vars(module), "_NCCL_AVAILABLE", True)
    swap(simulation, vars(module), "default_pg_nccl_timeout", TIMEOUT)
    for name in (C10D, "torch.distributed", "torch._C._distributed_c10d"):
        swap(simulation, vars(sys.modules[name]), "ProcessGroupNCCL", nccl_class())


def _version(simulation: Simulation) -> tuple[int, int, int]:
    return NCCL_VERSION


def _log(original: Any) -> Any:
    """Leave out what `DistributedDataParallel` logs of a group, which torch takes for gloo's own class by its name."""

    def set_construction_data_and_log(self: Any, *args: Any, **kwargs: Any) -> None:
        simulation = running()
        if simulation is None or simulation.backend is None:
            original(self, *args, **kwargs)

    return set_construction_data_and_log


LIBRARY = Library(
    tensor_classes={C10D: {"ProcessGroupGloo": _gloo}},
    tensors={"torch.cuda.nccl": {"version": _version}},
    tensor_class_attributes={"torch._C._distributed_c10d": {"Logger.set_construction_data_and_log": _log}},
    tensors_entered=_begin,
)
