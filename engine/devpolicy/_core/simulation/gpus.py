"""What is known of CUDA devices beyond the facts of a host: by compute capability, by name, and by position.

Owns these tables. A device's name and capability are facts of its host, and what NVIDIA publishes for them holds for
every such device. What is known of neither is missing here, and refused by who asks.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator
    from devpolicy._core.simulation.running import Simulation

KIB, MIB = 1 << 10, 1 << 20

OF_ALL: dict[str, Any] = {
    "warp_size": 32,
    "max_threads_per_block": 1024,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 48 * KIB,
    "is_multi_gpu_board": 0,
    "pci_domain_id": 0,
    "pci_device_id": 0,
}
"""What every device since compute capability 5.0 has in common."""

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": threads of a multiprocessor, its shared
# memory in KiB, and the most of that for one block.
_OF_CAPABILITY = {
    (6, 0): (2048, 64, 48),
    (6, 1): (2048, 96, 48),
    (7, 0): (2048, 96, 96),
    (7, 2): (2048, 96, 96),
    (7, 5): (1024, 64, 64),
    (8, 0): (2048, 164, 163),
    (8, 6): (1536, 100, 99),
    (8, 7): (1536, 164, 163),
    (8, 9): (1536, 100, 99),
    (9, 0): (2048, 228, 227),
    (10, 0): (2048, 228, 227),
    (10, 3): (2048, 228, 227),
    (12, 0): (1536, 100, 99),
    (12, 1): (1536, 100, 99),
}

# NVIDIA's architecture papers and data sheets: multiprocessors, L2 cache in MiB, bits of the memory bus, and the clocks
# of multiprocessors and memory in MHz.
_OF_NAME = {
    "Tesla T4": (40, 4, 256, 1590, 5001),
    "Tesla V100-SXM2-16GB": (80, 6, 4096, 1530, 877),
    "Tesla V100-SXM2-32GB": (80, 6, 4096, 1530, 877),
    "NVIDIA A10": (72, 6, 384, 1695, 6251),
    "NVIDIA A10G": (80, 6, 384, 1710, 6251),
    "NVIDIA A40": (84, 6, 384, 1740, 7251),
    "NVIDIA A100-SXM4-40GB": (108, 40, 5120, 1410, 1215),
    "NVIDIA A100-SXM4-80GB": (108, 40, 5120, 1410, 1593),
    "NVIDIA A100 80GB PCIe": (108, 40, 5120, 1410, 1512),
    "NVIDIA L4": (58, 48, 192, 2040, 6251),
    "NVIDIA L40S": (142, 96, 384, 2520, 9001),
    "NVIDIA H100 80GB HBM3": (132, 50, 5120, 1980, 2619),
    "NVIDIA H100 PCIe": (114, 50, 5120, 1755, 1593),
    "NVIDIA H200": (132, 60, 6144, 1980, 3201),
    "NVIDIA RTX A6000": (84, 6, 384, 1800, 8001),
    "NVIDIA GeForce RTX 3060": (28, 3, 192, 1777, 7501),
    "NVIDIA GeForce RTX 3070": (46, 4, 256, 1725, 7001),
    "NVIDIA GeForce RTX 3080": (68, 5, 320, 1710, 9501),
    "NVIDIA GeForce RTX 3090": (82, 6, 384, 1695, 9751),
    "NVIDIA GeForce RTX 4060": (24, 24, 128, 2460, 8501),
    "NVIDIA GeForce RTX 4070": (46, 36, 192, 2475, 10501),
    "NVIDIA GeForce RTX 4080": (76, 64, 256, 2505, 11201),
    "NVIDIA GeForce RTX 4090": (128, 72, 384, 2520, 10501),
    "NVIDIA GeForce RTX 5090": (170, 96, 512, 2407, 14001),
}

_ARCHITECTURES = {
    "cu12": "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
    "cu13": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120",
}
"""For which architectures the wheels of torch are compiled, by the CUDA that they are built with."""

CUDNN = 91501
"""The version of cuDNN that is told where a host does not give one: that of the wheels for CUDA 13."""


def properties(device: Accelerator) -> dict[str, Any]:
    """Return the properties of a CUDA device by torch's names, those that are known."""
    found = dict(OF_ALL)
    of_capability = _OF_CAPABILITY.get(device.capability or (0, 0))
    if of_capability is not None:
        threads, shared, of_block = of_capability
        found |= {"max_threads_per_multi_processor": threads, "shared_memory_per_multiprocessor": shared * KIB}
        found["shared_memory_per_block_optin"] = of_block * KIB
    of_name = _OF_NAME.get(device.name or "")
    if of_name is not None:
        multiprocessors, cache, bus, clock, memory_clock = of_name
        found |= {"multi_processor_count": multiprocessors, "L2_cache_size": cache * MIB, "memory_bus_width": bus}
        found |= {"clock_rate": clock * 1000, "memory_clock_rate": memory_clock * 1000}
    # torch gives the name here for a device of NVIDIA.
    return found | {"pci_bus_id": pci_bus(device), "gcnArchName": device.name or ""}


def xpu_properties(device: Accelerator) -> dict[str, Any]:
    """Return what is known of a device of Intel by torch's names: torch asks for float64 to print a tensor."""
    return {"has_fp16": True, "has_fp64": "Data Center GPU Max" in (device.name or ""), "has_atomic64": True}


def pci_bus(device: Accelerator) -> int:
    """Return the number of a device's PCI bus: devices are in the order of the driver's index."""
    return 1 + int((device.physical if device.physical is not None else device.id) or 0)


def uuid_of(simulation: Simulation, device: Accelerator) -> str:
    """Return a device's UUID as NVML gives it; where the host has none, one made of the host's name and the ordinal."""
    if device.uuid is not None:
        return device.uuid
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{simulation.name}/{device.type}:{device.id}')}"


def architectures(simulation: Simulation) -> str:
    """Return what torch was compiled for."""
    return _ARCHITECTURES.get(_toolkit(simulation)[:4], _ARCHITECTURES["cu13"])


def cuda_version(simulation: Simulation) -> int:
    """Return CUDA's version as its functions give it: 13000 for 13.0, the latest known where a host gives none."""
    digits = _toolkit(simulation)[2:]
    return int(digits[:-1]) * 1000 + int(digits[-1]) * 10 if digits.isdigit() and len(digits) > 1 else 13000


def torch_config(simulation: Simulation) -> str:
    """Return the lines that a build for CUDA adds to `torch.__config__.show()`."""
    version = cuda_version(simulation)
    listed = architectures(simulation).split()
    gencode = ";".join(f"-gencode;arch=compute_{name.rpartition('_')[2]},code={name}" for name in listed)
    return (
        f"  - CUDA Runtime {version // 1000}.{version % 1000 // 10}\n"
        f"  - NVCC architecture flags: {gencode}\n  - CuDNN {cudnn_text(simulation)}\n"
    )


def cudnn_version(simulation: Simulation) -> int:
    """Return the version of cuDNN as torch gives it: 91501 for 9.15.1."""
    given = simulation.host.version("cudnn")
    if given is None:
        return CUDNN
    major, minor, patch = (*[int(part) for part in given.split(".") if part.isdigit()], 0, 0, 0)[:3]
    return major * 10000 + minor * 100 + patch


def cudnn_text(simulation: Simulation) -> str:
    """Return the version of cuDNN with periods."""
    version = cudnn_version(simulation)
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _toolkit(simulation: Simulation) -> str:
    return (simulation.host.version("torch") or "").partition("+")[2]
