"""What only `torch.cuda` has where devices hold tensors: limits, pools, the runtime's functions, NVTX, cuDNN's facts.

torch's own Python code runs; here is the C half that it calls, and objects in the place of modules of a build for CUDA.
Nothing of this computes: a range or a pool is noted by no one.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from enum import IntEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.gpus import architectures, cudnn_version
from devpolicy._core.simulation.patched_libraries import ORIGINAL, Around, Library
from devpolicy._core.simulation.patched_libraries.torch_refused import _guarded, refuse
from devpolicy._core.simulation.patched_libraries.torch_tensors import swap
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devpolicy._core.simulation.running import Simulation
    from devpolicy._core.simulation.tensor_backend import TensorBackend

# -- memory


def _set_fraction(simulation: Simulation, backend: TensorBackend, type_: str, fraction: float, index: int) -> None:
    simulation.memo.setdefault(_set_fraction, {})[type_, index] = fraction
    backend.allow(type_, index, int(fraction * simulation.devices(type_)[index].memory))


def _get_fraction(simulation: Simulation, type_: str, index: int) -> float:
    return float(simulation.memo.get(_set_fraction, {}).get((type_, index), 1.0))


class Pool:
    """A pool of an allocator that keeps nothing: what is allocated in it is allocated."""

    _ids = itertools.count(1)

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        simulation = running()
        if allocator is not None and simulation is not None:
            raise refusal(simulation, "torch.cuda.MemPool(allocator=…)")
        self.id = (0, next(self._ids))

    def use_count(self) -> int:
        """Return how often it is in use."""
        return 1

    def snapshot(self, include_traces: bool = True) -> list[Any]:
        """Return the segments of the pool: none, since nothing is cached."""
        return []


def _use_pool(simulation: Simulation, original: Callable[..., Any], pool: Any, device: Any = None) -> Any:
    return _nothing_around()


@contextmanager
def _nothing_around() -> Iterator[None]:
    yield


# -- the runtime, and NVTX


class CudaError(IntEnum):
    """Results of the runtime's functions."""

    success = 0
    invalid_value = 1


class Runtime:
    """`torch.cuda.cudart()`: functions that a CPU can answer."""

    cudaError = CudaError  # noqa: N815 - CUDA's own name

    def __init__(self, simulation: Simulation, backend: TensorBackend) -> None:
        self._simulation = simulation
        self._backend = backend

    def cudaGetErrorString(self, error: Any) -> str:  # noqa: N802 - CUDA's own name
        """Return the words for a result."""
        return {0: "no error", 1: "invalid argument"}.get(int(error), "unrecognized error code")

    def cudaMemGetInfo(self, index: int) -> tuple[int, int]:  # noqa: N802 - CUDA's own name
        """Return free and total bytes."""
        device = self._simulation.devices("cuda")[index]
        return self._simulation.free(device), device.memory

    def __getattr__(self, name: str) -> Any:
        if name in ("cudaProfilerStart", "cudaProfilerStop", "cudaHostRegister", "cudaHostUnregister"):
            return lambda *ignored: CudaError.success
        if name.startswith("__"):
            raise AttributeError(name)
        raise refusal(self._simulation, f"torch.cuda.cudart().{name}")


class Ranges:
    """`torch._C._nvtx`: ranges that no profiler reads. In front of the stub of a build without NVTX."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._depth = 0
        self._ids = itertools.count(1)

    def rangePushA(self, message: str) -> int:  # noqa: N802 - NVTX's own name
        """Begin a range, and return how deep it is."""
        self._depth += 1
        return self._depth - 1

    def rangePop(self) -> int:  # noqa: N802 - NVTX's own name
        """End a range."""
        self._depth = max(0, self._depth - 1)
        return self._depth

    def rangeStartA(self, message: str) -> int:  # noqa: N802 - NVTX's own name
        """Begin a range that may end in another thread, and return its number."""
        return next(self._ids)

    def _nothing(self, *ignored: Any) -> None:
        return None

    rangeEnd = markA = deviceRangeStart = deviceRangeEnd = _nothing  # noqa: N815 - NVTX's own names

    def __getattribute__(self, name: str) -> Any:
        # Where no host holds tensors, what the stub says is right.
        if name.startswith("_") or _backend() is not None:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_stub"), name)


def _backend() -> Simulation | None:
    simulation = running()
    return simulation if simulation is not None and simulation.backend is not None else None


def _unless_backend(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that does nothing where devices hold tensors."""

    def method(self: Any, *args: Any) -> Any:
        return self if _backend() is not None else original(self, *args)

    return method


def _without_error(original: Callable[..., Any]) -> Callable[..., Any]:
    def leave(self: Any, *error: Any) -> Any:
        return None if _backend() is not None else original(self, *error)

    return leave


def _activities(simulation: Simulation, original: Callable[[], set[Any]]) -> set[Any]:
    import torch

    there = simulation.devices("cuda")
    return original() | ({torch.profiler.ProfilerActivity.CUDA} if there else set())


# -- attention


def _can_use(
    backend: int, simulation: Simulation, original: Callable[..., bool], params: Any, debug: bool = False
) -> bool:
    """Whether CUDA would take a backend for these tensors, by its rules."""
    devices = simulation.backend
    if devices is None or params.query.device.type != "cuda":
        return original(params, debug)
    return not devices.why_not_attention(backend, params.query, params.key, params.value, params.attn_mask)


# -- what stands in torch._C and in torch's modules


def _record_history(simulation: Simulation, enabled: str | None, *how: Any) -> None:
    """Record nothing, which is all that is asked where recording is switched off."""
    if enabled is not None:
        raise refusal(simulation, "torch.cuda.memory._record_memory_history()")


def _c_half(simulation: Simulation, backend: TensorBackend) -> dict[str, Any]:
    limits = {"cudnn": 10}  # torch's default

    def nothing(*ignored: Any) -> None:
        return None

    return {
        "_cuda_synchronize": lambda: backend.synchronize("cuda", backend.current("cuda")),
        "_xpu_synchronize": lambda index: backend.synchronize("xpu", index),
        "_cuda_setMemoryFraction": lambda fraction, index: _set_fraction(simulation, backend, "cuda", fraction, index),
        "_cuda_getMemoryFraction": partial(_get_fraction, simulation, "cuda"),
        "_xpu_setMemoryFraction": lambda fraction, index: _set_fraction(simulation, backend, "xpu", fraction, index),
        "_xpu_getMemoryFraction": partial(_get_fraction, simulation, "xpu"),
        "_cuda_getArchFlags": lambda: architectures(simulation),
        "_cuda_get_sync_debug_mode": backend.sync_debug,
        "_cuda_set_sync_debug_mode": backend.set_sync_debug,
        "_cuda_record_memory_history": partial(_record_history, simulation),
        "_cuda_sleep": nothing,
        "_cuda_get_cudnn_benchmark_limit": lambda: limits["cudnn"],
        "_cuda_set_cudnn_benchmark_limit": partial(limits.__setitem__, "cudnn"),
    }


def put(simulation: Simulation) -> None:
    """Put this into torch until the simulation is left."""
    import torch

    backend = simulation.backend
    assert backend is not None  # INVARIANT: it is called where devices hold tensors
    nvtx: Any = torch.cuda.nvtx
    swap(simulation, vars(nvtx), "_nvtx", Ranges(nvtx._nvtx))

    for name, function in _c_half(simulation, backend).items():
        swap(simulation, torch._C.__dict__, name, function)
    if not simulation.devices("cuda") or simulation.host.fault("cuda"):
        return
    swap(simulation, torch.cuda.__dict__, "_cudart", Runtime(simulation, backend))
    # `torch.backends.cudnn` stands in front of its own module.
    cudnn: Any = torch.backends.cudnn
    inner: dict[str, Any] = getattr(cudnn, "m", cudnn).__dict__
    swap(simulation, inner, "is_available", lambda: True)
    swap(simulation, inner, "version", partial(cudnn_version, simulation))
    # Layers would bring their weights into cuDNN's form, and then run its kernels.
    swap(simulation, inner, "is_acceptable", lambda tensor: False)


def _refuse_pool(simulation: Simulation, args: Any, kwargs: Any) -> None:
    refuse(simulation, "cuda", "torch.cuda.MemPool()")


def _pool_handle(simulation: Simulation, original: Callable[[], Any]) -> Any:
    raise refusal(simulation, "torch.cuda.graph_pool_handle()")


@cache
def _pool_class() -> type:
    return Pool


LIBRARY = Library(
    tensors={
        "torch.cuda": {"synchronize": ORIGINAL},
        "torch.xpu": {"synchronize": ORIGINAL},
        "torch.cuda.memory": {"use_mem_pool": Around(_use_pool)},
        "torch.cuda.graphs": {"graph_pool_handle": Around(_pool_handle)},
        "torch.profiler.profiler": {"supported_activities": Around(_activities)},
        "torch.backends.cuda": {
            "is_flash_attention_available": lambda simulation: bool(simulation.devices("cuda")),
            "can_use_flash_attention": Around(partial(_can_use, 1)),
            "can_use_efficient_attention": Around(partial(_can_use, 2)),
            "can_use_cudnn_attention": Around(partial(_can_use, 3)),
        },
    },
    classes={"torch.cuda.memory": {"MemPool": partial(_guarded, _refuse_pool, _pool_class)}},
    tensor_class_attributes={
        "torch.autograd.profiler": {"emit_nvtx.__enter__": _unless_backend, "emit_nvtx.__exit__": _without_error}
    },
    tensors_entered=put,
)
