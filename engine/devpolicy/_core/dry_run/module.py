"""A dry run of a module of the caller's, in this process: its class is nowhere else.

Owns the copy without weights, and how it is loaded: by `from_pretrained` where the class has one, else as accelerate
loads any module.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from devpolicy._core.dry_run.attempt import Job, Progress, attempt
from devpolicy._core.dry_run.checkpoint import scratch, write_tensors
from devpolicy._core.dry_run.child import Sizes
from devpolicy._core.dry_run.inputs import Size
from devpolicy._core.dry_run.result import DryRun
from devpolicy._core.host import Host
from devpolicy._core.placement.plan import Plan


def run_module(
    plan: Plan,
    module: Any,
    host: Host,
    sizes: Sizes,
    inputs: Mapping[str, Any] | None,
    progress: Progress,
) -> DryRun:
    """Return the result for a module, which stays as it is."""
    from accelerate import load_checkpoint_and_dispatch  # type: ignore[import-untyped]

    batch, prompt, new, beams = sizes
    generates = hasattr(module, "can_generate") and module.can_generate()
    size = Size(batch, prompt if generates else prompt + new, new, beams)
    model = copy.deepcopy(module, {id(tensor): _unloaded(tensor) for tensor in _tensors(module)})
    job = Job(plan, host, type(module).__name__, size, "phantom", inputs)
    with scratch() as folder:
        # A tied tensor is stored once, under its first name.
        names = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
        state = model.state_dict()
        write_tensors({name: state[name] for name in names.values()}, folder / "model.safetensors")

        def load(kwargs: Mapping[str, Any]) -> Any:
            device_map = dict(kwargs["device_map"])
            if hasattr(type(model), "from_pretrained"):
                given = {**kwargs, **({"offload_folder": str(folder)} if "offload_folder" in kwargs else {})}
                return type(model).from_pretrained(folder, config=model.config, **given)
            return load_checkpoint_and_dispatch(
                model, str(folder / "model.safetensors"), device_map, offload_folder=str(folder / "offload")
            )

        return attempt(job, load, progress)


def _tensors(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def _unloaded(tensor: Any) -> Any:
    import torch

    made = tensor.detach().to("meta")
    return torch.nn.Parameter(made, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else made
