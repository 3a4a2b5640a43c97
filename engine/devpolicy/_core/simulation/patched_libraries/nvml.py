"""NVML through nvidia-ml-py (`pynvml`).

NVML counts the driver's devices and not torch's: those that `CUDA_VISIBLE_DEVICES` hides are counted too, and a host
does not describe them. Every function of pynvml comes down to `_nvmlGetFunctionPointer`; what has no answer here is
refused there. Before `nvmlInit` nothing is answered, so what answers is put in place with it, and on each host from
then on: NVML stays initialised for the process.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from devpolicy._core.simulation.build import ROCM, host_built_for
from devpolicy._core.simulation.gpus import cuda_version, pci_bus, uuid_of
from devpolicy._core.simulation.layers import NVML
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.refusal import refusal

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator
    from devpolicy._core.simulation.patched_libraries import Answer
    from devpolicy._core.simulation.running import Simulation

IDLE_TEMPERATURE, IDLE_POWER, IDLE_CLOCK = 30, 20_000, 210
"""Readings of a device on which nothing runs: degrees, milliwatts, MHz. A host has no sensors; monitors ask anyway."""


class Handle:
    """A simulated device as NVML names it."""

    __slots__ = ("device", "index")

    def __init__(self, index: int, device: Accelerator) -> None:
        self.index = index
        self.device = device


def init(simulation: Simulation, flags: Any = None) -> None:
    """Load the library, as far as the host has one and it works."""
    _devices(simulation)
    _initialised.add(NVML)
    simulation.need(NVML)


_initialised: set[str] = set()
"""Whether it was, on any host."""


def _entered(simulation: Simulation) -> None:
    pynvml = sys.modules.get("pynvml")
    if pynvml is not None and (_initialised or getattr(pynvml, "_nvmlLib_refcount", 0) > 0):
        simulation.need(NVML)


def shutdown(simulation: Simulation) -> None:
    """Do nothing."""


def device_count(simulation: Simulation) -> int:
    """Return how many devices the driver has."""
    devices = _devices(simulation)
    return max(devices) + 1 if devices else 0


def handle_by_index(simulation: Simulation, index: int) -> Handle:
    """Return the handle of a device by the driver's index."""
    devices = _devices(simulation)
    if index not in devices:
        if 0 <= index < device_count(simulation):
            raise refusal(simulation, f"nvmlDeviceGetHandleByIndex({index}), which the host file does not describe,")
        _raise(simulation, "NVML_ERROR_INVALID_ARGUMENT")
    return Handle(index, _working(simulation, devices[index]))


def handle_by_uuid(simulation: Simulation, uuid: Any) -> Handle:
    """Return the handle of a device by its UUID."""
    wanted = uuid.decode() if isinstance(uuid, bytes) else uuid
    for index, device in _devices(simulation).items():
        if uuid_of(simulation, device) == wanted:
            return Handle(index, _working(simulation, device))
    return _raise(simulation, "NVML_ERROR_NOT_FOUND")


def name(simulation: Simulation, handle: Handle) -> str:
    """Return the device's name."""
    return handle.device.name or ""


def index(simulation: Simulation, handle: Handle) -> int:
    """Return the driver's index."""
    return handle.index


def uuid(simulation: Simulation, handle: Handle) -> str:
    """Return the UUID, which torch gives too."""
    return uuid_of(simulation, handle.device)


def compute_capability(simulation: Simulation, handle: Handle) -> list[int]:
    """Return major and minor."""
    if handle.device.capability is None:
        raise refusal(simulation, "nvmlDeviceGetCudaComputeCapability()")
    return list(handle.device.capability)


def memory_info(simulation: Simulation, handle: Handle, version: Any = None) -> Any:
    """Return total, free and used bytes. Of a GPU that shares the machine's memory, NVML reports none."""
    device = handle.device
    if device.unified:
        _raise(simulation, "NVML_ERROR_NOT_SUPPORTED")
    free = simulation.free(device)
    pynvml = _pynvml()
    found = pynvml.c_nvmlMemory_t() if version is None else pynvml.c_nvmlMemory_v2_t()
    found.total, found.free, found.used = device.memory, free, device.memory - free
    return found


def driver_version(simulation: Simulation) -> str:
    """Return the driver's version."""
    _devices(simulation)
    version = simulation.host.version("driver")
    if version is None:
        raise refusal(simulation, "nvmlSystemGetDriverVersion()")
    return version


def cuda_driver_version(simulation: Simulation) -> int:
    """Return the CUDA that the driver supports: that of torch's build, which it has to."""
    _devices(simulation)
    return cuda_version(simulation)


def pci_info(simulation: Simulation, handle: Handle) -> Any:
    """Return where the device is: a bus of its own, in the order of the driver's index."""
    found = _pynvml().nvmlPciInfo_t()
    found.bus = pci_bus(handle.device)
    found.busId = f"00000000:{found.bus:02X}:00.0".encode()
    found.busIdLegacy = found.busId[4:]
    return found


def utilization(simulation: Simulation, handle: Handle) -> Any:
    """Return that of an idle device: what runs here is the CPU's."""
    found = _pynvml().c_nvmlUtilization_t()
    found.gpu = found.memory = 0
    return found


def reading(value: int) -> Answer:
    """Return what answers a sensor's question with the reading of an idle device."""

    def read(simulation: Simulation, handle: Handle, *which: Any) -> int:
        return value

    return read


def processes(simulation: Simulation, handle: Handle) -> list[Any]:
    """Return this process, where it holds memory of the device."""
    backend = simulation.backend
    index = handle.device.id or 0
    if backend is None or not backend.figures("cuda", index)["allocated"]:
        return []
    found = _pynvml().c_nvmlProcessInfo_v2_t()
    found.pid, found.usedGpuMemory = os.getpid(), backend.figures("cuda", index)["allocated"]
    return [found]


def cpu_affinity(simulation: Simulation, handle: Handle, words: int) -> list[int]:
    """Return the CPUs that are near to the device, as words of 64 bits: all that this process may use."""
    near = sum(1 << cpu for cpu in os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return [near >> (64 * word) & (1 << 64) - 1 for word in range(words)]


def function_pointer(simulation: Simulation, called: str) -> NoReturn:
    """Refuse whatever is not answered above."""
    if NVML not in simulation.memo:
        _raise(simulation, "NVML_ERROR_UNINITIALIZED")
    raise refusal(simulation, f"{called}()")


def _devices(simulation: Simulation) -> dict[int, Accelerator]:
    """Return the NVIDIA devices by the driver's index. Raises NVML's own errors where there is no driver."""
    host = simulation.host
    fault = host.fault("nvml")
    if fault:
        _raise(simulation, "NVML_ERROR_UNKNOWN", fault)
    rocm = host_built_for(host, ROCM)
    devices = {} if rocm else simulation.devices("cuda")
    if not devices and (rocm or host.version("driver") is None):
        _raise(simulation, "NVML_ERROR_LIBRARY_NOT_FOUND")
    return {ordinal if device.physical is None else device.physical: device for ordinal, device in devices.items()}


def _working(simulation: Simulation, device: Accelerator) -> Accelerator:
    if device.fault:
        _raise(simulation, "NVML_ERROR_GPU_IS_LOST", device.fault)
    return device


def _raise(simulation: Simulation, code: str, text: str | None = None) -> NoReturn:
    pynvml = _pynvml()
    error = pynvml.NVMLError(getattr(pynvml, code))
    if text is not None:
        # NVML's own class for the code, with the words of the host file.
        kind: Any = type(error)
        worded: Any = type(kind.__name__, (kind,), {"__str__": lambda self: text})
        raise worded(error.value)
    raise error


def _pynvml() -> Any:
    return sys.modules["pynvml"]


DOORS = frozenset({"_nvmlGetFunctionPointer", "nvmlInitWithFlags"})


def _layer_of(name: str) -> str | None:
    return None if name in DOORS else NVML


LIBRARY = Library(
    layer_of=_layer_of,
    entered=_entered,
    answers={
        "pynvml": {
            "_nvmlGetFunctionPointer": function_pointer,
            "nvmlDeviceGetClockInfo": reading(IDLE_CLOCK),
            "nvmlDeviceGetComputeRunningProcesses_v2": processes,
            "nvmlDeviceGetComputeRunningProcesses_v3": processes,
            "nvmlDeviceGetCount": device_count,
            "nvmlDeviceGetCount_v2": device_count,
            "nvmlDeviceGetCudaComputeCapability": compute_capability,
            "nvmlDeviceGetCpuAffinity": cpu_affinity,
            "nvmlDeviceGetHandleByIndex": handle_by_index,
            "nvmlDeviceGetHandleByIndex_v2": handle_by_index,
            "nvmlDeviceGetHandleByUUID": handle_by_uuid,
            "nvmlDeviceGetIndex": index,
            "nvmlDeviceGetMemoryInfo": memory_info,
            "nvmlDeviceGetMinorNumber": index,
            "nvmlDeviceGetName": name,
            "nvmlDeviceGetPciInfo_v3": pci_info,
            "nvmlDeviceGetPowerUsage": reading(IDLE_POWER),
            "nvmlDeviceGetTemperature": reading(IDLE_TEMPERATURE),
            "nvmlDeviceGetTemperatureV": reading(IDLE_TEMPERATURE),
            "nvmlDeviceGetUUID": uuid,
            "nvmlDeviceGetUtilizationRates": utilization,
            "nvmlInitWithFlags": init,
            "nvmlShutdown": shutdown,
            "nvmlSystemGetCudaDriverVersion": cuda_driver_version,
            "nvmlSystemGetCudaDriverVersion_v2": cuda_driver_version,
            "nvmlSystemGetDriverVersion": driver_version,
        }
    },
)
