"""`torch.cuda` and `torch.xpu`, which ask the same questions of two vendors.

A device answers about itself and has nothing allocated. Whatever needs more comes down to `_lazy_init`, which torch's
own code calls first, and is refused there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import ROCM, built_for, count, device_error, usable
from devpolicy._core.simulation.gpus import properties, uuid_of, xpu_properties
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.refusal import refusal

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator
    from devpolicy._core.simulation.patched_libraries import Answer
    from devpolicy._core.simulation.running import Simulation


class Uuid:
    """A device's UUID as torch gives it: an object with the bytes, whose text is without NVML's `GPU-`."""

    def __init__(self, text: str) -> None:
        self._text = text.removeprefix("GPU-")

    @property
    def bytes(self) -> list[int]:
        """The 16 bytes."""
        return list(bytes.fromhex(self._text.replace("-", "")))

    def __str__(self) -> str:
        return self._text


class Properties:
    """What `get_device_properties` gives: a host's facts, and what follows of them. Others are refused."""

    def __init__(self, simulation: Simulation, device: Accelerator) -> None:
        self._simulation = simulation
        self._type = device.type
        self.name = device.name or ""
        self.total_memory = device.memory
        self.is_integrated = device.unified
        self.uuid: Any = device.uuid
        if device.capability is not None:
            self.major, self.minor = device.capability
        if device.type == "cuda":
            self.uuid = Uuid(uuid_of(simulation, device))
            vars(self).update(properties(device))
        elif device.type == "xpu":
            vars(self).update(xpu_properties(device))

    def __getattr__(self, name: str) -> Any:
        if name in NOT_KNOWN:
            simulation = self.__dict__["_simulation"]
            raise refusal(simulation, f"torch.{self.__dict__['_type']}.get_device_properties(…).{name}")
        raise AttributeError(f"device properties have no attribute {name!r}")

    def __repr__(self) -> str:
        told = [f"name='{self.name}'"]
        told += [f"{name}={vars(self)[name]}" for name in ("major", "minor") if name in vars(self)]
        told.append(f"total_memory={self.total_memory >> 20}MB")
        told += [
            f"{name}={vars(self)[name]}"
            for name in ("multi_processor_count", "uuid", "pci_bus_id")
            if name in vars(self)
        ]
        if "L2_cache_size" in vars(self):
            told.append(f"L2_cache_size={vars(self)['L2_cache_size'] >> 20}MB")
        return f"_{'Cuda' if self._type == 'cuda' else 'Xpu'}DeviceProperties({', '.join(told)})"


NOT_KNOWN = frozenset(
    {"L2_cache_size", "architecture", "clock_rate", "device_id", "driver_version", "gcnArchName", "gpu_eu_count"}
    | {"gpu_subslice_count", "has_atomic64", "has_fp16", "has_fp64", "is_multi_gpu_board", "local_mem_size", "major"}
    | {"max_compute_units", "max_num_sub_groups", "max_threads_per_block", "max_threads_per_multi_processor"}
    | {"max_work_group_size", "memory_bus_width", "memory_clock_rate", "minor", "multi_processor_count", "pci_bus_id"}
    | {"pci_device_id", "pci_domain_id", "platform_name", "regs_per_multiprocessor", "shared_memory_per_block"}
    | {"shared_memory_per_block_optin", "shared_memory_per_multiprocessor", "sub_group_sizes", "vendor", "version"}
    | {"warp_size"}
)
"""Properties that torch tells of real devices, and a host does not have."""


def device_index(type_: str, simulation: Simulation, device: Any) -> int:
    """Return the ordinal that an argument names, as torch reads it: an int, text, a `torch.device` or `None`."""
    if device is None:
        return simulation.current(type_)
    if isinstance(device, int):
        return device if device >= 0 else simulation.current(type_)
    import torch

    named = torch.device(device)
    if named.type != type_:
        raise ValueError(f"Expected a {type_} device, but got: {named}")
    return simulation.current(type_) if named.index is None else int(named.index)


def _device(type_: str, simulation: Simulation, device: Any) -> Accelerator:
    """Return the device that a question is about, or raise what torch raises on such a host."""
    require(type_, simulation)
    index = device_index(type_, simulation, device)
    try:
        if index >= count(simulation, type_):
            raise device_error(f"{type_.upper()} error: invalid device ordinal")
        return usable(simulation, type_, index)
    except RuntimeError as error:
        # Torch's words name no device. A note leaves them as they are, for code that looks for them.
        host = f"the simulated host `{simulation.host.name}`" if simulation.host.name else "a simulated host"
        error.add_note(f"asked of `{type_}:{index}` on {host}")
        raise


def require(type_: str, simulation: Simulation) -> None:
    """Raise what torch raises when it initialises a type on a host that cannot."""
    if not built_for(simulation, type_):
        # torch's own class and words: libraries look for them.
        raise AssertionError(f"Torch not compiled with {type_.upper()} enabled")
    fault = simulation.host.fault(type_)
    if fault:
        raise RuntimeError(fault)
    if not count(simulation, type_):
        raise RuntimeError(f"No {type_.upper()} GPUs are available")


def _is_compiled(type_: str, simulation: Simulation) -> bool:
    return built_for(simulation, type_)


def _device_count(type_: str, simulation: Simulation) -> int:
    return count(simulation, type_)


def _is_available(type_: str, simulation: Simulation) -> bool:
    return count(simulation, type_) > 0


def _init(type_: str, simulation: Simulation) -> None:
    require(type_, simulation)


def _lazy_init(type_: str, simulation: Simulation) -> None:
    require(type_, simulation)
    raise refusal(simulation, f"torch.{type_}")


def _current_device(type_: str, simulation: Simulation) -> int:
    require(type_, simulation)
    return simulation.current(type_)


def _set_device(type_: str, simulation: Simulation, device: Any) -> None:
    if isinstance(device, int) and device < 0:
        return
    if device in (None, type_) or (getattr(device, "type", None), getattr(device, "index", None)) == (type_, None):
        # torch's own words: it does not take the current device here.
        raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
    _device(type_, simulation, device)
    simulation.set_current(type_, device_index(type_, simulation, device))


def _exchange_device(type_: str, simulation: Simulation, index: int) -> int:
    if index < 0:
        return -1
    before = simulation.current(type_)
    _set_device(type_, simulation, index)
    return before


def _get_device_properties(type_: str, simulation: Simulation, device: Any = None) -> Properties:
    require(type_, simulation)
    negative = isinstance(device, int) and device < 0
    if type_ == "cuda" and (negative or device_index(type_, simulation, device) >= count(simulation, type_)):
        raise AssertionError("Invalid device id")
    return Properties(simulation, _device(type_, simulation, device))


def _get_xpu_capability(type_: str, simulation: Simulation, device: Any = None) -> Any:
    _device(type_, simulation, device)
    raise refusal(simulation, "torch.xpu.get_device_capability()")


def _mem_get_info(type_: str, simulation: Simulation, device: Any = None) -> tuple[int, int]:
    found = _device(type_, simulation, device)
    return simulation.free(found), found.memory


def _nothing_to_do(type_: str, simulation: Simulation) -> None:
    return None


def _seeded(type_: str, simulation: Simulation, seed: int) -> None:
    """Take any seed: torch keeps it for when the type is initialised, and asks no device."""
    int(seed)


def _nothing_runs(type_: str, simulation: Simulation, device: Any = None) -> None:
    """Do what a device has done at once on which nothing runs, if there is such a device."""
    _device(type_, simulation, device)


def _is_capturing(type_: str, simulation: Simulation) -> bool:
    """Answer no: a graph is captured by what runs. Optimizers ask, also those whose parameters are on the CPU."""
    require(type_, simulation)
    return False


def _nvml_index(type_: str, simulation: Simulation, device: Any) -> int:
    """Return the driver's index of a device, which torch reads off `CUDA_VISIBLE_DEVICES`."""
    index = device_index(type_, simulation, device)
    found = simulation.devices(type_).get(index)
    return index if found is None or found.physical is None else found.physical


def _no(type_: str, simulation: Simulation) -> bool:
    return False


def _yes(type_: str, simulation: Simulation) -> bool:
    return True


def _is_bf16_supported(type_: str, simulation: Simulation, including_emulation: bool = True) -> bool:
    if not count(simulation, type_):
        return False
    if type_ == "cuda" and built_for(simulation, ROCM):
        return True
    return type_ == "xpu" or including_emulation or _get_device_properties(type_, simulation).major >= 8


# What is not here is answered by torch's own code from what is: names and capabilities from properties, the allocator's
# figures from `is_initialized`, and the rest is refused at `_lazy_init`.
COMMON: dict[str, Answer] = {
    "_exchange_device": _exchange_device,
    "_is_compiled": _is_compiled,
    "_lazy_init": _lazy_init,
    "_maybe_exchange_device": _exchange_device,
    "current_device": _current_device,
    "device_count": _device_count,
    "get_device_properties": _get_device_properties,
    "init": _init,
    "is_available": _is_available,
    "is_bf16_supported": _is_bf16_supported,
    "is_initialized": _no,
    "manual_seed": _seeded,
    "manual_seed_all": _seeded,
    "mem_get_info": _mem_get_info,
    "reset_peak_memory_stats": _nothing_runs,
    "seed": _nothing_to_do,
    "seed_all": _nothing_to_do,
    "set_device": _set_device,
    "synchronize": _nothing_runs,
}
CUDA_ONLY: dict[str, Answer] = {
    "_device_count_nvml": _device_count,
    "_get_nvml_device_index": _nvml_index,
    "ipc_collect": _init,
    "is_current_stream_capturing": _is_capturing,
    # So that a caller which holds the original `is_available` is led to the count above and not to torch's C side.
    "_nvml_based_avail": _yes,
}
XPU_ONLY: dict[str, Answer] = {
    "get_device_capability": _get_xpu_capability,
    "is_current_stream_capturing": _is_capturing,
}


def _answers(type_: str, questions: dict[str, Answer]) -> dict[str, Answer]:
    return {name: partial(answer, type_) for name, answer in questions.items()}


ANSWERS: dict[str, dict[str, Answer]] = {
    "torch.cuda": _answers("cuda", COMMON | CUDA_ONLY),
    "torch.xpu": _answers("xpu", COMMON | XPU_ONLY),
    "torch.backends.cuda": {"is_built": partial(_is_compiled, "cuda")},
}
LIBRARY = Library(answers=ANSWERS)
