"""Several devices in the form that pools of worker processes take: one whole copy of a model on each.

Owns the lists alone. Which devices hold a copy was decided before: they are those of several plans.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from devpolicy._core.device import ComponentDevice, Device, DeviceType
from devpolicy._core.errors import DeviceError
from devpolicy._core.public import public


@public("devpolicy.haystack")
def sentence_transformers_pool(devices: Iterable[ComponentDevice]) -> list[str]:
    """Return the devices of a pool: `target_devices=` of `start_multi_process_pool`, or `device=` of `encode`.

    Haystack's embedders take it as `encode_kwargs={"device": ...}`. Raises `DeviceError` for a map, and for the same
    accelerator twice: each worker holds a copy of its own. The CPU may hold several.
    """
    return [str(one) for one in _single(devices)]


@public("devpolicy.haystack")
def fastembed_pool(devices: Iterable[ComponentDevice]) -> dict[str, Any]:
    """Return fastembed's keyword arguments for workers on several devices: `cuda` and `device_ids`.

    `parallel` is beside them, a parameter of `embed` and of Haystack's components: the number of devices. Raises
    `DeviceError` for a map, for the same accelerator twice, and for anything but CUDA devices, or the CPU alone.
    """
    ones = _single(devices)
    if {one.type for one in ones} == {DeviceType.CPU}:
        return {"cuda": False}
    strange = [str(one) for one in ones if one.type is not DeviceType.GPU]
    if strange:
        raise DeviceError(f"fastembed's workers run on CUDA devices, or on the CPU alone, not on `{strange[0]}`")
    return {"cuda": True, "device_ids": [one.id or 0 for one in ones]}


def _single(devices: Iterable[ComponentDevice]) -> list[Device]:
    ones = [Device.from_str(device.to_torch_str()) for device in devices]
    if not ones:
        raise DeviceError("a pool needs at least one device")
    twice = [str(one) for place, one in enumerate(ones) if one in ones[:place] and one.type is not DeviceType.CPU]
    if twice:
        raise DeviceError(f"`{twice[0]}` is there twice: each worker of a pool has an accelerator of its own")
    return ones
