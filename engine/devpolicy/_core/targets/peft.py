"""Loading a plan's adapters with PEFT.

Owns the call. PEFT's `from_pretrained` dispatches a model that was loaded with parts on the CPU or on disk once more,
by a map of its own, and rewrites its checkpoint for the disk. Here it sees a model that stays as it is: hooks remain,
and each adapter is made on the device where its module runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from devpolicy._core.errors import Diagnostic
from devpolicy._core.model.adapters import names_of
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.saved import PlanError


def load_adapters(plan: Plan, model: Any) -> Any:
    """Return a `PeftModel` of a model that was loaded by a plan, with the plan's adapters. Raises `PlanError`."""
    folders = plan.loading.adapters
    if not folders:
        hint = 'name them in the policy: `[loading]` with `adapter = "./lora"`'
        raise PlanError(Diagnostic("DP105", "the plan has no adapters", help=hint))
    if not hasattr(model, "named_modules"):
        raise PlanError(f"adapters are loaded onto a `torch.nn.Module`, not onto a `{type(model).__name__}`")
    try:
        from peft import PeftModel
    except ImportError:
        message = "adapters are loaded with PEFT, which is not here"
        raise PlanError(Diagnostic("DP407", message, help="`pip install peft`")) from None
    names = names_of(folders)
    with _as_it_is(model):
        # Read to the CPU: each tensor is copied from there to the device of its module.
        wrapped: Any = PeftModel.from_pretrained(model, folders[0], names[0], torch_device="cpu")
        for folder, name in zip(folders[1:], names[1:], strict=True):
            wrapped.load_adapter(folder, name, torch_device="cpu")
    return wrapped


@contextmanager
def _as_it_is(model: Any) -> Iterator[None]:
    """Show PEFT a model without a map, whose weights all seem to be where they are computed with."""
    dispatched = model.__dict__.pop("hf_device_map", None)
    away = list(_kept_elsewhere(model))
    try:
        for module, name, own, device in away:
            module._parameters[name] = _stand_in(own, device)
        yield
    finally:
        for module, name, own, _ in away:
            module._parameters[name] = own
        if dispatched is not None:
            model.hf_device_map = dispatched


def _kept_elsewhere(model: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    """Yield the parameters that accelerate brings in for each forward, with the device that it brings them to."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type == "meta" and device is not None:
                yield module, name, parameter, device


def _stand_in(parameter: Any, device: Any) -> Any:
    """Return a parameter like another on a device, which takes one element of memory."""
    import torch

    data = torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)
    return torch.nn.Parameter(data, requires_grad=False)
