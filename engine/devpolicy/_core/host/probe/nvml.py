"""NVIDIA GPUs by NVML: without a CUDA context, without torch.

Owns the reading of NVML through nvidia-ml-py's module, which is an argument, so that tests give
one of their own. NVML counts all GPUs in the order of the PCI bus; which of them this process
sees, and as which ids, is decided from the environment's variables.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.host.probe.answer import Answer, accelerator, clean, reason
from devpolicy._core.host.probe.visible import Gpu, Seen, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from devpolicy._core.host import Accelerator
    from devpolicy._core.host.probe.system import Amount


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs of a machine in NVML's order, each with its MIG instances (`None`: not in MIG mode)."""

    gpus: tuple[Accelerator, ...]
    instances: tuple[tuple[Accelerator, ...] | None, ...]
    driver: str | None = None


def inventory(nvml: Any, ram: Amount) -> Inventory:
    """Ask NVML for every GPU. Raises what NVML raises where it cannot be asked at all.

    `ram` stands for the memory of a GPU that has none of its own.
    """
    nvml.nvmlInit()
    try:
        gpus: list[Accelerator] = []
        instances: list[tuple[Accelerator, ...] | None] = []
        for index in range(int(nvml.nvmlDeviceGetCount())):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except Exception as error:  # noqa: BLE001 - NVML's errors are made at run time
                gpus.append(accelerator("cuda", {"physical": index, "fault": reason(error)}))
                instances.append(None)
                continue
            gpus.append(_gpu(nvml, handle, index, ram))
            instances.append(_instances(nvml, handle, index, ram))
        return Inventory(tuple(gpus), tuple(instances), _optional(nvml.nvmlSystemGetDriverVersion))
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any, index: int, ram: Amount) -> Accelerator:
    facts: dict[str, Any] = {
        "physical": index,
        "name": _optional(nvml.nvmlDeviceGetName, handle),
        "uuid": _optional(nvml.nvmlDeviceGetUUID, handle),
    }
    with suppress(Exception):
        facts["capability"] = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        facts |= {"memory": memory.total, "free": memory.free}
    except Exception as error:  # noqa: BLE001 - NVML's errors are made at run time
        # A GPU without memory of its own (GB10, Jetson) is the one that does not support the question.
        if getattr(error, "value", None) == nvml.NVML_ERROR_NOT_SUPPORTED:
            facts |= {"memory": ram.total, "free": ram.free, "unified": True}
        else:
            facts["fault"] = reason(error)
    return accelerator("cuda", facts)


def _instances(nvml: Any, handle: Any, index: int, ram: Amount) -> tuple[Accelerator, ...] | None:
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
        if not mode:
            return None
        places = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except Exception:  # noqa: BLE001 - GPUs without MIG do not support the question
        return None
    result = []
    for place in range(places):
        # Places without an instance raise "not found".
        with suppress(Exception):
            result.append(_gpu(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place), index, ram))
    return tuple(result)


def _optional(ask: Callable[..., Any], *arguments: Any) -> str | None:
    with suppress(Exception):
        return clean(ask(*arguments)) or None
    return None


def order_is_known(found: Inventory, environ: Mapping[str, str]) -> bool:
    """Whether CUDA's order is NVML's. By default CUDA puts the GPU first that it takes for the fastest.

    How it guesses is not documented, so with unlike GPUs the order, and what an index in
    `CUDA_VISIBLE_DEVICES` means, is known only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    names = {gpu.name for gpu in found.gpus if gpu.fault is None}
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(names) <= 1


def seen(found: Inventory, environ: Mapping[str, str]) -> Answer:
    """Return the GPUs that a process with these variables sees, in the order of torch's ids."""
    gpus = [
        Gpu(gpu.uuid or "", None if instances is None else tuple(instance.uuid or "" for instance in instances))
        for gpu, instances in zip(found.gpus, found.instances, strict=True)
    ]
    chosen = visible(environ.get("CUDA_VISIBLE_DEVICES"), gpus)
    return _answer(found, [_pick(found, entry) for entry in chosen])


def seen_in_order(found: Inventory, torchs: Sequence[Accelerator]) -> Answer | None:
    """Return the GPUs in the order in which torch counts them, by UUID; `None` where that fails for one."""
    by_uuid = {gpu.uuid: gpu for gpu in found.gpus if gpu.uuid}
    matched = [by_uuid.get(device.uuid) for device in torchs if device.uuid]
    if not torchs or len(matched) != len(torchs) or None in matched:
        return None
    return _answer(found, [gpu for gpu in matched if gpu is not None])


def _pick(found: Inventory, entry: Seen) -> Accelerator:
    if entry.instance is None:
        return found.gpus[entry.position]
    return (found.instances[entry.position] or ())[entry.instance]


def _answer(found: Inventory, devices: Sequence[Accelerator]) -> Answer:
    versions = (("driver", found.driver),) if found.driver else ()
    return Answer(tuple(devices), versions)
