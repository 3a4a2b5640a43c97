"""Is a loaded model what its plan says, and where?

Owns the look at a loaded model: where each tensor is, also one that accelerate keeps on the CPU or on disk and brings
in for each forward, and how many bytes each unit of the plan holds. Another dtype shows in the bytes, and so does a tie
that loading did not make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from devpolicy._core.device import DeviceType
from devpolicy._core.model.checkpoint_mapping import converted_names
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.saved import PlanError
from devpolicy._core.targets.peft_names import is_adapters, is_wrapped, own_path


class _Held(NamedTuple):
    """A tensor of a loaded model."""

    name: str
    """Its name in the model itself, of an adapter's the name behind the module that it changes."""
    module: str
    """The module that holds it, in the model itself."""
    tensor: Any
    stays: bool
    """Whether it is where its module runs, also when the module's weights are kept elsewhere: buffers, adapters."""
    device: str
    kept: str
    """The name that it is counted under: that of the tensor that it is tied to."""
    size: int
    """Its bytes, with those of what it carries along where it is quantised."""
    changes: bool
    """Whether a first forward makes it another size, as bitsandbytes does: what is planned is the most of both."""


def verify(plan: Plan, model: Any) -> list[str]:
    """Return one line for each tensor of `model` that is not where `plan` says, or that only one of the two has.

    And one for each unit that holds other bytes than planned, with the dtypes that it has. Where all of that is right,
    one for each device that holds another sum than its ledger. A model with adapters is looked at as the one inside.

    `model` is a `torch.nn.Module`; raises `PlanError` where it is not.
    """
    if not hasattr(model, "named_modules"):
        raise PlanError(f"a loaded `torch.nn.Module` can be verified, not a value of type {type(model).__name__}")
    own = own_path if is_wrapped(model) else str
    known = {own(path) for path, _ in model.named_modules(remove_duplicate=False)}
    differences = [f"{path}: the model has no such module" for path in plan.placements if path not in known]
    tensors = list(_tensors(model, own))
    for at, held in enumerate(tensors):
        placement = plan.placements.get(held.module)
        if placement is None:
            differences.append(f"{held.name}: the plan does not place it")
            continue
        wanted = placement.runs_on if held.stays else placement.device
        if held.device == "cpu" and held.stays and held.tensor.dim() == 0:
            # torch takes scalars from the CPU wherever it computes
            tensors[at] = held._replace(device=_plain(wanted.type.value, wanted.id))
        elif held.device != _plain(wanted.type.value, wanted.id):
            differences.append(f"{held.name}: planned on {wanted}, is on {held.device}")
    if not plan.loading.dtype and not plan.loading.model_dtype:
        return differences
    other_bytes = list(_other_bytes(plan, tensors))
    if other_bytes:
        whole = _with_what_is_kept(tensors, model, own)
        other_bytes = list(_other_bytes(plan, whole))
        tensors = whole if not other_bytes else tensors
    differences += [*_other_dtypes(plan, tensors), *other_bytes]
    return differences or list(_other_sums(plan, tensors))


def _with_what_is_kept(tensors: Iterable[_Held], model: Any, own: Callable[[str], str]) -> list[_Held]:
    """Return tensors, those that loading makes parts of larger ones with the bytes that stay with them."""
    converted = converted_names((own(path), module) for path, module in model.named_modules())
    kept = {name: one.kept for name, one in converted.items() if one.kept}
    return [
        held._replace(size=held.size + kept[held.name] * held.tensor.element_size()) if held.name in kept else held
        for held in tensors
    ]


def _other_dtypes(plan: Plan, tensors: Iterable[_Held]) -> Iterator[str]:
    """Yield a line for each tensor in another dtype of as many bytes: all others show in the bytes."""
    halves = {"float16", "bfloat16"}
    planned = plan.loading.dtype or plan.loading.model_dtype
    if planned not in halves or plan.loading.architecture is None or plan.loading.scheme != "none":
        return
    for held in tensors:
        dtype = _dtype(held.tensor)
        if dtype in halves and dtype != planned and not held.stays:  # code may make a buffer in a dtype of its own
            yield f"{held.name}: planned in {planned}, is in {dtype}"


def _other_bytes(plan: Plan, tensors: Iterable[_Held]) -> Iterator[str]:
    """Yield a line for each unit whose tensors take other bytes in the model than in the plan."""
    unit_of = {id(placement): path for path, placement in plan.placements.items()}
    units = dict.fromkeys(plan.placements, 0)
    dtypes: dict[str, set[str]] = {path: set() for path in plan.placements}
    repacked: set[str] = set()
    for held in _once(tensors):
        placement = plan.placements.get(held.module)
        if placement is None:
            continue
        path = unit_of[id(placement)]
        units[path] += held.size
        dtypes[path].add(_dtype(held.tensor))
        if held.changes:
            repacked.add(path)
    for path, placement in plan.placements.items():
        fits = units[path] == placement.bytes or (path in repacked and units[path] < placement.bytes)
        if not fits and dtypes[path]:
            kinds = ", ".join(sorted(dtypes[path]))
            yield f"{path or 'the model'}: planned with {placement.bytes} bytes, holds {units[path]} ({kinds})"


def _other_sums(plan: Plan, tensors: Iterable[_Held]) -> Iterator[str]:
    """Yield a line for each device that holds other bytes than the ledger has as its weights."""
    devices = dict.fromkeys(plan.ledger, 0)
    for held in _once(tensors):
        devices[held.device] = devices.get(held.device, 0) + held.size
    repacked = {held.device for held in tensors if held.changes}
    for device, size in devices.items():
        planned = plan.ledger[device].weights if device in plan.ledger else 0
        if size != planned and not (device in repacked and size < planned):
            yield f"{device}: planned with {planned} bytes of weights, holds {size}"


def kept_bytes(model: Any) -> dict[str, int]:
    """Return the bytes of a loaded model's tensors that are on the CPU and on the disk, tied ones once."""
    found: dict[str, int] = {}
    for held in _once(_tensors(model, str)):
        if held.device in (DeviceType.CPU.value, DeviceType.DISK.value):
            found[held.device] = found.get(held.device, 0) + held.size
    return found


def _once(tensors: Iterable[_Held]) -> Iterator[_Held]:
    """Yield each tensor once. What is offloaded has a stand-in under each name, and is tied by its name."""
    seen: set[object] = set()
    for held in tensors:
        keys = {id(held.tensor), held.kept} if held.tensor.device.type == "meta" else {id(held.tensor)}
        if not keys & seen:
            yield held
        seen |= keys


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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


def _bytes_beside(tensor: Any, module: Any) -> int:
    """Return the bytes of what a quantised tensor carries with it as attributes, which no module registers."""
    state = getattr(tensor, "quant_state", None)
    parts = [getattr(one, table, None) for one in (state, getattr(state, "state2", None)) for table in _TABLES]
    if hasattr(tensor, "SCB"):  # the scales of 8-bit weights, which the first forward hands to the module
        own = getattr(getattr(module, "state", None), "SCB", None)
        parts.append(own if tensor.SCB is None else tensor.SCB)
    return sum(_stored_bytes(part) for part in parts if hasattr(part, "element_size"))


def _tensors(model: Any, own: Callable[[str], str]) -> Iterator[_Held]:
    hooks = {path: one._hf_hook for path, one in model.named_modules() if hasattr(one, "_hf_hook")}
    tied = _declared_ties(model)
    named = [(model.named_parameters, False), (model.named_buffers, True)]
    for name, tensor, is_buffer in ((*pair, kind) for read, kind in named for pair in read(remove_duplicate=False)):
        path, _, last = name.rpartition(".")
        adapters = own is not str and is_adapters(path)
        full = f"{own(path)}.{last}" if own(path) else last
        # accelerate leaves buffers on the executing device, also where it keeps the weights elsewhere.
        stays, kept = is_buffer or adapters, name if adapters else tied.get(full, full)
        size = _stored_bytes(tensor) + (_bytes_beside(tensor, model.get_submodule(path)) if _is_packed(tensor) else 0)
        # On a CPU it repacks the weights, and everywhere a bias gets the dtype of the products.
        weight = getattr(model.get_submodule(path), "weight", None) if last == "bias" else tensor
        changes = hasattr(weight, "quant_state") and (last == "bias" or tensor.device.type == "cpu")
        where = _where(name, tensor, hooks)
        yield _Held(name if adapters else full, own(path), tensor, stays, where, kept, size, changes)


def _is_packed(tensor: Any) -> bool:
    return hasattr(tensor, "quant_state") or hasattr(tensor, "SCB")


def _plain(kind: str, number: int | None) -> str:
    """Return a device's one name: torch reports `mps:0` for `mps`, and a bare `cuda` is its first."""
    if kind in (DeviceType.CPU.value, DeviceType.DISK.value, DeviceType.MPS.value):
        return kind
    return f"{kind}:{number or 0}"


def _where(name: str, tensor: Any, hooks: dict[str, Any]) -> str:
    if tensor.device.type != "meta":
        return _plain(tensor.device.type, tensor.device.index)
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
        device = weights.state_dict[key].device
        return _plain(device.type, device.index)
    return "disk" if key in (getattr(weights, "index", None) or {}) else "meta"
