"""A plan in the form that Transformers takes.

Owns the keyword arguments of `from_pretrained` and of `pipeline`. What a device map may say was decided when the
plan was made.
"""

from __future__ import annotations

from typing import Any

from devpolicy._core.device import ComponentDevice, DeviceMap
from devpolicy._core.placement.plan import Plan


def to_hf_kwargs(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained`: `device_map`, and where they apply `offload_folder`, `dtype`.

    `device_map` is always a dictionary, so that a single device too is loaded to directly.
    """
    kwargs: dict[str, Any] = {"device_map": _device_map(plan)}
    if plan.loading.offload_folder is not None:
        kwargs["offload_folder"] = plan.loading.offload_folder
    if plan.loading.dtype is not None:
        kwargs["dtype"] = plan.loading.dtype
    return kwargs


def to_pipeline_kwargs(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.pipeline`: it takes `device` or `device_map`, never both."""
    kwargs = to_hf_kwargs(plan)
    device_map, folder = kwargs.pop("device_map"), kwargs.pop("offload_folder", None)
    placed = {"device_map": device_map} if plan.device.has_multiple_devices else {"device": plan.device.to_torch_str()}
    return {**placed, **kwargs, **({"model_kwargs": {"offload_folder": folder}} if folder is not None else {})}


def _device_map(plan: Plan) -> dict[str, int | str]:
    """Return the map, also of a single device: then it has the one key of the whole model."""
    form = plan.device.to_dict()
    entries = form["device_map"] if plan.device.has_multiple_devices else {"": form["device"]}
    converted = ComponentDevice.from_multiple(DeviceMap.from_dict(entries)).to_hf()
    return converted if isinstance(converted, dict) else {}
