"""A plan in the form that diffusers takes: how a pipeline is loaded, and the call that puts it on its devices.

Owns the arguments of `from_pretrained` and the three modes of streaming. A pipeline's own `device_map` is a word
(`"balanced"`) that decides by itself, so it is loaded without one, and moved component by component.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from devpolicy._core.errors import DevPolicyError, Diagnostic, Unsatisfiable
from devpolicy._core.placement.plan import Plan

TARGET = "diffusers"
_DTYPE_SINCE = (0, 42)
"""The version from which `torch_dtype` is called `dtype`."""


def diffusers_settings(plan: Plan) -> dict[str, Any]:
    """Return what a plan says to diffusers, as data.

    `dtype` is by component, with `"default"` for the others; `variant` is there where the folder has no other files.
    Either `devices` (of each component) or `call` with its `arguments`, a method of the pipeline.
    """
    _check(plan)
    load = plan.loading
    given = load.dtype or load.model_dtype
    dtypes = {"default": given} if load.dtype or not load.dtypes else {**dict(load.dtypes), "default": given}
    loaded = {"dtype": dtypes, **({"variant": load.variant} if load.variant else {})}
    if plan.streaming is None:
        return {**loaded, "devices": {name: str(unit.runs_on) for name, unit in plan.placements.items() if unit.bytes}}
    return {**loaded, **_call(plan.streaming, str(plan.placements.devices[0]))}


def to_diffusers_kwargs(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of `DiffusionPipeline.from_pretrained`: dtypes of torch by component, `variant`."""
    import torch

    said = diffusers_settings(plan)
    dtypes = {name: getattr(torch, word) for name, word in said["dtype"].items() if word is not None}
    key = "torch_dtype" if _older() else "dtype"
    return {key: dtypes, **({"variant": said["variant"]} if "variant" in said else {})}


def place_pipeline(plan: Plan, pipeline: Any) -> Any:
    """Put a loaded pipeline where its plan says, and return it: by component, or with a mode of streaming switched on.

    Of several devices each component's inputs are brought to its own by accelerate. Raises `PlanError` where the
    pipeline has not the components of the plan.
    """
    said = diffusers_settings(plan)
    modules = {name: one for name, one in pipeline.components.items() if hasattr(one, "named_modules")}
    planned = {name for name, unit in plan.placements.items() if unit.bytes}
    if planned != modules.keys():
        differ = ", ".join(f"`{name}`" for name in sorted(planned ^ modules.keys()))
        raise DevPolicyError(f"the plan is of another pipeline: {differ} is in one of the two alone")
    if "call" in said:
        getattr(pipeline, said["call"])(**_objects(said["arguments"]))
        return pipeline
    devices: Mapping[str, str] = said["devices"]
    if len(set(devices.values())) == 1:
        return pipeline.to(next(iter(devices.values())))
    accelerate = import_module("accelerate")
    for name, device in devices.items():
        accelerate.dispatch_model(modules[name], {"": device}, main_device=device, force_hooks=True)
    return pipeline


def _call(mode: str, device: str) -> dict[str, Any]:
    if mode == "group":
        group = {"offload_type": "block_level", "num_blocks_per_group": 1}
        return {
            "call": "enable_group_offload",
            "arguments": {"onload_device": device, "offload_device": "cpu", **group},
        }
    return {"call": f"enable_{mode}_cpu_offload", "arguments": {"device": device}}


def _objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {key: torch.device(value) if key.endswith("load_device") else value for key, value in arguments.items()}


def _check(plan: Plan) -> None:
    if plan.target != TARGET:
        message = f"the plan was made for `{plan.target}`, and is not one of a pipeline's components"
        raise Unsatisfiable(Diagnostic("DP409", message, help=f'plan the pipeline with `target = "{TARGET}"`'))
    if any("." in name or not name for name in plan.placements):
        inside = next(name for name in plan.placements if "." in name or not name)
        message = f"`{TARGET}` runs whole components, and the plan places `{inside}` by itself"
        raise Unsatisfiable(Diagnostic("DP404", message, help="plan the folder of the pipeline"))


def _older() -> bool:
    """Whether the installed diffusers takes `torch_dtype`."""
    try:
        numbers = version("diffusers").split(".")[:2]
    except PackageNotFoundError:
        return False
    return all(one.isdecimal() for one in numbers) and tuple(map(int, numbers)) < _DTYPE_SINCE
