"""Is a loaded model where its plan says?

Owns the look at a loaded model: where each tensor is, also one that accelerate keeps on the CPU or on disk
and brings in for each forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from devpolicy._core.device import DeviceType
from devpolicy._core.placement.plan import Plan, PlanError


def verify(plan: Plan, model: Any) -> list[str]:
    """Return one line for each tensor of `model` that is not where `plan` says, or that only one of the two has.

    `model` is a `torch.nn.Module`; raises `PlanError` where it is not.
    """
    if not hasattr(model, "named_modules"):
        raise PlanError(f"a loaded `torch.nn.Module` can be verified, not a value of type {type(model).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    hooks = {path: module._hf_hook for path, module in modules.items() if hasattr(module, "_hf_hook")}
    differences = [f"{path}: the model has no such module" for path in plan.placements if path not in modules]
    for name, tensor, is_buffer in _tensors(model):
        module = name.rpartition(".")[0]
        try:
            placement = plan.placements[module]
        except KeyError:
            differences.append(f"{name}: the plan does not place it")
            continue
        # accelerate leaves buffers on the executing device, also where it keeps the weights elsewhere.
        wanted = placement.runs_on if is_buffer else placement.device
        actual = _where(name, tensor, hooks)
        if actual != _plain(str(wanted)):
            differences.append(f"{name}: planned on {wanted}, is on {actual}")
    return differences


def _tensors(model: Any) -> Iterator[tuple[str, Any, bool]]:
    for name, tensor in model.named_parameters(remove_duplicate=False):
        yield name, tensor, False
    for name, tensor in model.named_buffers(remove_duplicate=False):
        yield name, tensor, True


def _plain(device: str) -> str:
    """Return a device's one name: torch reports `mps:0` for `mps`, and a bare `cuda` is its first."""
    kind, _, number = device.partition(":")
    if kind in (DeviceType.CPU.value, DeviceType.DISK.value, DeviceType.MPS.value):
        return kind
    return f"{kind}:{number or 0}"


def _where(name: str, tensor: Any, hooks: dict[str, Any]) -> str:
    if tensor.device.type != "meta":
        return _plain(str(tensor.device))
    # Kept elsewhere: the innermost hook on the way up knows the weights.
    path, _, rest = name.rpartition(".")
    while True:
        weights = getattr(hooks.get(path), "weights_map", None)
        if weights is not None:
            return _kept(weights, rest)
        if not path:
            return "meta"
        path, _, last = path.rpartition(".")
        rest = f"{last}.{rest}"


def _kept(weights: Any, key: str) -> str:
    """Where accelerate's mapping of weights keeps `key`: memory, or files."""
    # Ends: each mapping was made of the one below it, so there is an innermost one.
    while hasattr(weights, "prefix"):
        key, weights = weights.prefix + key, weights.dataset
    if key in (getattr(weights, "state_dict", None) or {}):
        return _plain(str(weights.state_dict[key].device))
    return "disk" if key in (getattr(weights, "index", None) or {}) else "meta"
