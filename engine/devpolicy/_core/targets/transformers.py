"""A plan in the form that Transformers takes.

Owns the keyword arguments of `from_pretrained` and of `pipeline`. What a device map may say was decided when the
plan was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devpolicy._core.device import ComponentDevice, DeviceMap
from devpolicy._core.errors import Diagnostic
from devpolicy._core.loading.value import as_argument
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.saved import PlanError


def to_hf_kwargs(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained`: every one that a figure of the plan depends on.

    `device_map` is always a dictionary, so that a single device too is loaded to directly. `dtype` is always there, so
    that no configuration decides it behind the plan, and so are `attn_implementation` and `experts_implementation`
    where the model is known to take them, with a `_` before them too where the configuration has such a key: an auto
    class would take that one. `offload_folder` is there where weights are rewritten, and
    `quantization_config`, an object of the library, where it decides what becomes of quantised weights.
    """
    kwargs: dict[str, Any] = {"device_map": _device_map(plan)}
    load = plan.loading
    if load.offload_folder is not None:
        kwargs["offload_folder"] = load.offload_folder
    given = {
        "dtype": load.dtype or load.model_dtype,
        "variant": load.variant,
        "gguf_file": load.gguf_file,
        "attn_implementation": as_argument(load.attention),
        "experts_implementation": as_argument(load.experts),
        "quantization_config": None if load.quantization is None else _configuration(load.quantization),
    }
    given |= {key: given[key.removeprefix("_")] for key in load.overriding}
    return kwargs | {key: value for key, value in given.items() if value is not None}


def _configuration(table: Mapping[str, Any]) -> Any:
    """Return the configuration that Transformers makes of a table. Raises `PlanError` where its library is not here."""
    try:
        from transformers.quantizers.auto import AutoQuantizationConfig

        return AutoQuantizationConfig.from_dict(dict(table))
    except (ImportError, ValueError) as missing:
        method = table.get("quant_method")
        raise PlanError(f"Transformers cannot make a configuration for `{method}` here: {missing}") from None


def to_pipeline_kwargs(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.pipeline`: it takes `device` or `device_map`, never both.

    Raises `PlanError` where the plan has adapters or a GGUF file, which it cannot be told.
    """
    hint = "load the model with `to_hf_kwargs()`{}, and give that to the pipeline"
    if plan.loading.adapters:
        hint = hint.format(", then `plan.load_adapters(model)`")
        raise PlanError(Diagnostic("DP416", "`pipeline` does not take `loading.adapter`", help=hint))
    if plan.loading.gguf_file is not None:
        raise PlanError(Diagnostic("DP416", "`pipeline` does not take a GGUF file", help=hint.format("")))
    kwargs = to_hf_kwargs(plan)
    device_map = kwargs.pop("device_map")
    device = plan.component_device
    placed = {"device_map": device_map} if device.has_multiple_devices else {"device": device.to_torch_str()}
    own = {key: kwargs.pop(key) for key in ("dtype",) if key in kwargs}
    return {**placed, **own, **({"model_kwargs": kwargs} if kwargs else {})}


def _device_map(plan: Plan) -> dict[str, int | str]:
    """Return the map, also of a single device: then it has the one key of the whole model."""
    form = plan.component_device.to_dict()
    entries = form["device_map"] if plan.component_device.has_multiple_devices else {"": form["device"]}
    converted = ComponentDevice.from_multiple(DeviceMap.from_dict(entries)).to_hf()
    return converted if isinstance(converted, dict) else {}
