"""Is a loaded model what its plan says, and where?

Owns the look at a loaded model: where each tensor is, also one that accelerate keeps on the CPU or on disk and brings
in for each forward, and how many bytes each unit of the plan holds. Another dtype shows in the bytes, and so does a tie
that loading did not make.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from devpolicy._core.device import DeviceType
from devpolicy._core.placement.plan import Plan, PlanError


def verify(plan: Plan, model: Any) -> list[str]:
    """Return one line for each tensor of `model` that is not where `plan` says, or that only one of the two has.

    And one for each unit that holds other bytes than planned, with the dtypes that it has.

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
        scalar = is_buffer and tensor.dim() == 0  # which torch takes from the CPU wherever it computes
        if actual != _plain(str(wanted)) and not (scalar and actual == "cpu"):
            differences.append(f"{name}: planned on {wanted}, is on {actual}")
    return [*differences, *_other_bytes(plan, model)] if plan.loading.dtype or plan.loading.model_dtype else differences


def kept_bytes(model: Any) -> dict[str, int]:
    """Return the bytes of a loaded model's tensors that are on the CPU and on the disk, tied ones once."""
    hooks = {path: module._hf_hook for path, module in model.named_modules() if hasattr(module, "_hf_hook")}
    tied = _declared_ties(model)
    seen: set[object] = set()
    found: dict[str, int] = {}
    for name, tensor, _ in _tensors(model):
        key: object = tied.get(name, name) if tensor.device.type == "meta" else id(tensor)
        where = _where(name, tensor, hooks)
        if key not in seen and where in (DeviceType.CPU.value, DeviceType.DISK.value):
            found[where] = found.get(where, 0) + _stored_bytes(tensor)
        seen.add(key)
    return found


def _other_bytes(plan: Plan, model: Any) -> Iterator[str]:
    """Yield a line for each unit whose tensors take other bytes in the model than in the plan."""
    unit_of = {id(placement): path for path, placement in plan.placements.items()}
    held = dict.fromkeys(plan.placements, 0)
    dtypes: dict[str, set[str]] = {path: set() for path in plan.placements}
    tied = _declared_ties(model)
    seen: set[object] = set()
    repacked: set[str] = set()
    for name, tensor, _ in _tensors(model):
        placement = plan.placements.get(name.rpartition(".")[0])
        if placement is None:
            continue
        path = unit_of[id(placement)]
        # One tensor under two names counts once. What is offloaded has a stand-in under each, and is tied by its name.
        keys = {id(tensor), tied.get(name, name)} if tensor.device.type == "meta" else {id(tensor)}
        if not keys & seen:
            held[path] += _stored_bytes(tensor) + _bytes_beside(tensor, model, name)
            dtypes[path].add(str(tensor.dtype).removeprefix("torch."))
            if hasattr(tensor, "quant_state"):
                repacked.add(path)
        seen |= keys
    for path, placement in plan.placements.items():
        # Bitsandbytes repacks the scales of a weight on a CPU's first forward: what is planned is the most of both.
        fits = held[path] == placement.bytes or (path in repacked and held[path] < placement.bytes)
        if not fits and dtypes[path]:
            kinds = ", ".join(sorted(dtypes[path]))
            yield f"{path or 'the model'}: planned with {placement.bytes} bytes, holds {held[path]} ({kinds})"


def _declared_ties(model: Any) -> dict[str, str]:
    """Return the name that each tied tensor is kept under, as a Transformers model declares it."""
    declared = getattr(model, "all_tied_weights_keys", None)
    return dict(declared) if isinstance(declared, dict) else {}


def _stored_bytes(tensor: Any) -> int:
    """Return the bytes of a tensor, of one that is made of others theirs."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.numel() * tensor.element_size())
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored_bytes(getattr(tensor, name)) for name in names)


_TABLES = ("absmax", "code", "offset")
"""What bitsandbytes keeps of a 4-bit weight beside it: scales, the values that the bits stand for, the scales' mean."""


def _bytes_beside(tensor: Any, model: Any, name: str) -> int:
    """Return the bytes of what a quantised tensor carries with it as attributes, which no module registers."""
    state = getattr(tensor, "quant_state", None)
    parts = [getattr(one, table, None) for one in (state, getattr(state, "state2", None)) for table in _TABLES]
    if hasattr(tensor, "SCB"):  # the scales of 8-bit weights, which the first forward hands to the module
        parts.append(tensor.SCB)
        if tensor.SCB is None:
            parts.append(getattr(getattr(model.get_submodule(name.rpartition(".")[0]), "state", None), "SCB", None))
    return sum(_stored_bytes(part) for part in parts if hasattr(part, "element_size"))


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
