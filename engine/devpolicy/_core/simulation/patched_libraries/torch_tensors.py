"""torch where devices hold tensors: its own code runs, on what it finds in `torch._C`.

A CPU build of torch has the Python half of `torch.cuda` and `torch.xpu`, and lacks the C half that it calls. At the
depths `phantom` and `tensors` that half is there: current devices, memory figures, streams, generators. A name of it
that is not simulated is refused when it is called.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import accelerator_type, count
from devpolicy._core.simulation.patched_libraries import ORIGINAL, Around, Library, torch_parallel
from devpolicy._core.simulation.patched_libraries.constants import Flag
from devpolicy._core.simulation.patched_libraries.torch_accelerator import NONE
from devpolicy._core.simulation.patched_libraries.torch_devices import require
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.tensor_backend import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation
    from devpolicy._core.simulation.tensor_backend import TensorBackend

TYPES = ("cuda", "xpu")
"""The types whose C half is missing; that of mps is in every build, and asks the simulator."""

POOLS = ("all", "small_pool", "large_pool")
COUNTED = ("allocation", "segment", "active", "inactive_split", "oversize_allocations", "oversize_segments")
SIZED = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes", "inactive_split_bytes")
REFUSED = ("_broadcast_out", "_scatter_out", "_gather_out")
"""What moves tensors into others between devices."""


def _ready(type_: str, simulation: Simulation) -> None:
    require(type_, simulation)


def _is_initialized(type_: str, simulation: Simulation) -> bool:
    return simulation.backend is not None and count(simulation, type_) > 0 and not simulation.host.fault(type_)


def _of_accelerator(simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Ask torch's own function, which takes a type without a device for a programming error."""
    if accelerator_type(simulation) is None or not any(count(simulation, type_) for type_ in KINDS):
        raise RuntimeError(NONE)
    return original(*args, **kwargs)


# -- the C half


def _memory_stats(backend: TensorBackend, type_: str, index: int) -> dict[str, Any]:
    """Return a ledger in the form of a GPU allocator's statistics. Nothing is rounded, cached or split."""
    told = backend.figures(type_, index)
    size = {"current": told["allocated"], "peak": told["peak"]}
    size |= {"allocated": told["allocated_ever"], "freed": told["freed_ever"]}
    number = {"current": told["allocations"] - told["frees"], "peak": told["allocations"] - told["frees"]}
    number |= {"allocated": told["allocations"], "freed": told["frees"]}
    none = dict.fromkeys(size, 0)
    stats: dict[str, Any] = {name: dict.fromkeys(POOLS, none) for name in (*COUNTED[:4], *SIZED)}
    stats |= dict.fromkeys(COUNTED[4:], none)
    for name in SIZED[:4]:
        stats[name] = {"all": size, "small_pool": none, "large_pool": size}
    for name in ("allocation", "active"):
        stats[name] = {"all": number, "small_pool": none, "large_pool": number}
    stats |= dict.fromkeys(("num_alloc_retries", "num_sync_all_streams"), 0)
    return stats | {
        "num_ooms": told["failures"],
        "num_device_alloc": told["allocations"],
        "num_device_free": told["frees"],
        "max_split_size": -1,
    }


def _exchange(backend: TensorBackend, type_: str, index: int) -> int:
    if index < 0:
        return -1
    before = backend.current(type_)
    backend.set_current(type_, index)
    return before


def _stream(backend: TensorBackend, type_: str, index: int = -1) -> tuple[int, int, int]:
    """Return the current stream as `torch.cuda.Stream` takes it: id, device, and the number of the device's type."""
    place = backend.current(type_) if index < 0 else index
    return backend.current_stream(type_, place), place, _TYPE_NUMBERS[type_]


def _default_stream(backend: TensorBackend, type_: str, index: int = -1) -> tuple[int, int, int]:
    return (0, *_stream(backend, type_, index)[1:])


def _set_stream(backend: TensorBackend, type_: str, *, stream_id: int, device_index: int, device_type: int) -> None:
    backend.set_stream(type_, device_index, stream_id)


def _nothing(*ignored: Any, **also: Any) -> None:
    return None


_TYPE_NUMBERS = {"cuda": 1, "xpu": 12}
"""`c10::DeviceType`, which never changes."""


def _c_half(simulation: Simulation, backend: TensorBackend, type_: str) -> dict[str, Any]:
    """Return what `torch._C` has of a type, by name."""
    with_type: dict[str, Callable[..., Any]] = {
        "getDevice": backend.current,
        "setDevice": backend.set_current,
        "exchangeDevice": partial(_exchange, backend),
        "maybeExchangeDevice": partial(_exchange, backend),
        "getDeviceCount": partial(count, simulation),
        "memoryStats": partial(_memory_stats, backend),
        "resetPeakMemoryStats": backend.reset_peak,
        "getCurrentStream": partial(_stream, backend),
        "getDefaultStream": partial(_default_stream, backend),
        "setStream": partial(_set_stream, backend),
        "getCurrentRawStream": backend.current_stream,
    }
    found: dict[str, Any] = {name: partial(function, type_) for name, function in with_type.items()}
    # What libraries let go of at the end of a run was never kept.
    given_back = ("emptyCache", "clearCublasWorkspaces")
    found |= dict.fromkeys((*given_back, "synchronize", "resetAccumulatedMemoryStats"), _nothing)
    found |= {"canDeviceAccessPeer": lambda one, other: True, "getAllocatorBackend": lambda: "native"}
    found |= {"get_sync_debug_mode": lambda: 0}
    return {f"_{type_}_{name}": function for name, function in found.items()}


def put_c_half(simulation: Simulation) -> None:
    """Put what torch's Python code calls into `torch._C`, until the simulation is left.

    What another host put there, inside which this one runs, comes back then.
    """
    backend = simulation.backend
    if backend is None and not _of_hosts:
        return
    import torch

    namespace: dict[str, Any] = torch._C.__dict__
    names: dict[str, Any] = {}
    if backend is not None:
        names |= {name: partial(_refuse, simulation, f"torch._C.{name}") for name in REFUSED}
        names |= torch_parallel.c_half()
        for type_ in TYPES:
            names |= _c_half(simulation, backend, type_)
    own = set(namespace).difference(*_of_hosts)
    _of_hosts.append({name: value for name, value in names.items() if name not in own})
    _show(namespace)
    simulation.restore.append(partial(_leave, namespace, _of_hosts[-1]))
    if backend is not None:
        _put_generators(simulation, backend, torch)


_of_hosts: list[dict[str, Any]] = []
"""What is there of `torch._C` on each host that is entered, the innermost last."""


def _leave(namespace: dict[str, Any], names: dict[str, Any]) -> None:
    for name in names:
        namespace.pop(name, None)
    # By identity: that of a host with no devices is empty, as another's may be.
    _of_hosts[:] = [each for each in _of_hosts if each is not names]
    _show(namespace)


def _show(namespace: dict[str, Any]) -> None:
    """Let torch find what the innermost host has, and nothing else."""
    for names in _of_hosts[:-1]:
        for name in names:
            namespace.pop(name, None)
    namespace.update(_of_hosts[-1] if _of_hosts else {})


def _put_generators(simulation: Simulation, backend: TensorBackend, torch: Any) -> None:
    for type_ in TYPES:
        working = 0 if simulation.host.fault(type_) else count(simulation, type_)
        generators = tuple(backend.default_generator(type_, index) for index in range(working))
        namespace = vars(getattr(torch, type_))
        swap(simulation, namespace, "default_generators", generators)
        # What torch's own code reads in the place of `is_initialized()`: whether there is a state to keep.
        swap(simulation, namespace, "_initialized", Flag(namespace["_initialized"], partial(_is_initialized, type_)))
    swap(simulation, vars(torch.mps), "_default_mps_generator", None)
    if count(simulation, "mps"):
        # `torch.mps.manual_seed` does nothing without.
        swap(simulation, torch._C.__dict__, "_has_mps", True)


_ABSENT = object()
_swapped: dict[tuple[int, str], list[tuple[Simulation | None, Any]]] = {}
"""What stands in a namespace by simulation, the last one on top of what was there before, at the bottom."""


def swap(simulation: Simulation, namespace: dict[str, Any], name: str, value: Any) -> None:
    """Put a value in the place of another, or of nothing, until a simulation is left, in whatever order they are."""
    values = _swapped.setdefault((id(namespace), name), [(None, namespace.get(name, _ABSENT))])
    values.append((simulation, value))
    simulation.restore.append(partial(_put_back, simulation, namespace, name))
    namespace[name] = value


def _put_back(simulation: Simulation, namespace: dict[str, Any], name: str) -> None:
    key = id(namespace), name
    values = [entry for entry in _swapped.get(key, ()) if entry[0] is not simulation]
    if not values:  # put back already: a simulation may swap a name twice
        return
    last = values[-1][1]
    if last is _ABSENT:
        namespace.pop(name, None)
    else:
        namespace[name] = last
    if len(values) > 1:
        _swapped[key] = values
    else:
        _swapped.pop(key, None)


def _refuse(simulation: Simulation, what: str, *args: Any, **kwargs: Any) -> Any:
    raise refusal(simulation, f"{what}()")


def _run_backward(simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a backward, after autograd has a thread for each device."""
    if simulation.backend is not None and _run_backward not in simulation.memo:
        simulation.memo[_run_backward] = {}
        simulation.backend.start_engine()
    return original(*args, **kwargs)


def _tensor_str(simulation: Simulation, original: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a tensor's values as text; those of a phantom are not there, and torch shows a size in their place."""
    if simulation.backend and simulation.backend.depth == "phantom" and tensor.device.type in KINDS:
        return f"..., size={tuple(tensor.shape)}"
    return original(tensor, *args, **kwargs)


def _shared(type_: str) -> dict[str, Any]:
    originals = ("manual_seed", "manual_seed_all", "seed", "seed_all", "reset_peak_memory_stats")
    own = {"_lazy_init": partial(_ready, type_), "is_initialized": partial(_is_initialized, type_)}
    return {**own, **dict.fromkeys(originals, ORIGINAL)}


OF_MPS = (
    *("_get_default_mps_generator", "current_allocated_memory", "driver_allocated_memory", "empty_cache"),
    *("manual_seed", "seed", "synchronize"),
)
OF_ACCELERATOR = (*("current_stream", "memory_stats", "reset_accumulated_memory_stats", "reset_peak_memory_stats"),)

LIBRARY = Library(
    tensors={
        "torch.cuda": _shared("cuda"),
        "torch.xpu": _shared("xpu"),
        "torch.mps": dict.fromkeys(OF_MPS, ORIGINAL),
        "torch.accelerator": dict.fromkeys(OF_ACCELERATOR, Around(_of_accelerator)),
        "torch.autograd.graph": {"_engine_run_backward": Around(_run_backward)},
        "torch._tensor_str": {"_tensor_str": Around(_tensor_str)},
        "accelerate.utils.modeling": {"get_max_memory": ORIGINAL},
    },
    entered=put_c_half,
)
