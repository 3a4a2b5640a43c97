"""NVIDIA GPUs by NVML: without a CUDA context, without torch.

Owns what a child process reported of NVML (`ask.inventory`), as accelerators. NVML counts all GPUs in the order of the
PCI bus; which of them this process sees, and as which ids, is decided from the environment's variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.host.probe.probe_result import ProbeResult, accelerator
from devpolicy._core.host.probe.visible import Gpu, Seen, visible
from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devpolicy._core.host import Accelerator
    from devpolicy._core.host.probe.system import Amount


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs of a machine in NVML's order, each with its MIG instances (`None`: not in MIG mode)."""

    gpus: tuple[Accelerator, ...]
    instances: tuple[tuple[Accelerator, ...] | None, ...]
    driver: str | None = None


def read(told: Mapping[str, Any], ram: Amount) -> Inventory:
    """Return the answer of `torch_probe.inventory` as an inventory. Raises one of `MALFORMED` for anything else.

    `ram` is the memory of a GPU that has none of its own.
    """
    gpus = list(told["gpus"])
    return Inventory(
        tuple(_gpu(facts, index, ram) for index, facts in enumerate(gpus)),
        tuple(_instances(facts.get("instances"), index, ram) for index, facts in enumerate(gpus)),
        one_line(told.get("driver") or "") or None,
    )


def _gpu(facts: Mapping[str, Any], index: int, ram: Amount) -> Accelerator:
    shared = {"memory": ram.total, "free": ram.free, "unified": True} if facts.get("shared") else {}
    return accelerator("cuda", {**facts, **shared, "physical": index})


def _instances(told: Sequence[Mapping[str, Any]] | None, index: int, ram: Amount) -> tuple[Accelerator, ...] | None:
    return None if told is None else tuple(_gpu(facts, index, ram) for facts in told)


def order_is_known(found: Inventory, environ: Mapping[str, str]) -> bool:
    """Whether CUDA's order is NVML's. By default CUDA puts the GPU first that it takes for the fastest.

    How it guesses is not documented, so with unlike GPUs the order, and what an index in
    `CUDA_VISIBLE_DEVICES` means, is known only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    names = {gpu.name for gpu in found.gpus if gpu.fault is None}
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(names) <= 1


def seen(found: Inventory, environ: Mapping[str, str]) -> ProbeResult:
    """Return the GPUs that a process with these variables sees, in the order of torch's ids."""
    gpus = [
        Gpu(gpu.uuid or "", None if instances is None else tuple(instance.uuid or "" for instance in instances))
        for gpu, instances in zip(found.gpus, found.instances, strict=True)
    ]
    chosen = visible(environ.get("CUDA_VISIBLE_DEVICES"), gpus)
    return _answer(found, [_pick(found, entry) for entry in chosen])


def seen_in_order(found: Inventory, torchs: Sequence[Accelerator]) -> ProbeResult | None:
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


def _answer(found: Inventory, devices: Sequence[Accelerator]) -> ProbeResult:
    versions = (("driver", found.driver),) if found.driver else ()
    return ProbeResult(tuple(devices), versions)
