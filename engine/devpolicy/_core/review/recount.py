"""What each device holds by a plan's device map, counted anew.

Owns the naive count: tensor by tensor, from the map that the consumer is given and the model, without the planner's
units, ledger or search. It shares with the planner what `memory` owns: the bytes of a cache and of activations, and
what a policy allows of each device. `tests/oracle.py` states that arithmetic once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.memory.budgets import accelerator_budget, cpu_budget
from devpolicy._core.memory.sizing import activation_bytes, kv_caches

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import ResolvedPolicy
    from devpolicy._core.memory.budgets import DeviceBudget
    from devpolicy._core.model.tree import ModelTree, Tensor
    from devpolicy._core.placement.plan import Plan

KEPT = ("cpu", "disk")


@dataclass(slots=True)
class DeviceLoad:
    """Bytes on one device."""

    weights: int = 0
    kv_cache: int = 0
    streaming: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.streaming + self.activations


def tensors(tree: ModelTree) -> Iterator[tuple[str, str, Tensor]]:
    """Yield every tensor's full name, its module's path, and itself."""
    for module in tree.modules:
        for tensor in module.tensors:
            yield f"{module.path}.{tensor.name}" if module.path else tensor.name, module.path, tensor


def device_map(plan: Plan) -> dict[str, str]:
    """Return the map that the consumer is given: one device is the key of the whole model."""
    form = plan.device.to_dict()
    return dict(form["device_map"]) if "device_map" in form else {"": form["device"]}


def keys_of(name: str, given: dict[str, str]) -> list[str]:
    """Return the keys of a map that cover a tensor or a module: one, in a sound map."""
    return [prefix for prefix in _prefixes(name) if prefix in given]


def _prefixes(name: str) -> Iterator[str]:
    """Yield a path and those above it, the root's last."""
    parts = name.split(".") if name else []
    return (".".join(parts[:length]) for length in range(len(parts), -1, -1))


def recount(
    plan: Plan, tree: ModelTree, policy: ResolvedPolicy, budgets: Mapping[str, DeviceBudget]
) -> dict[str, DeviceLoad]:
    """Return what each device holds; `budgets` replace derived figures where the policy does. Tensors times depth."""
    given = device_map(plan)
    main = min((device for device in given.values() if device not in KEPT), key=_number, default="cpu")
    kept = {place for place in KEPT if place != main}
    running = {device for device in given.values() if device not in kept}
    loads: dict[str, DeviceLoad] = {}
    dtype = policy.workload.dtype
    again = {name for group in tree.ties for name in group[1:]}
    streamed: dict[str, int] = {}
    for name, module, tensor in tensors(tree):
        device = given[keys_of(name, given)[0]]
        if device in kept and not tensor.buffer:
            streamed[module] = streamed.get(module, 0) + tensor.bytes_as(dtype)
        elif device in kept:
            device = main  # buffers stay where the module runs
        loads.setdefault(device, DeviceLoad()).weights += 0 if name in again else tensor.bytes_as(dtype)
    if not loads:
        return {}  # a model without tensors runs nowhere, and caches nothing
    for device in loads.keys() & running:
        loads[device].activations = activation_bytes(tree, policy.workload)
    for module, size in kv_caches(tree, policy.workload):
        keys = keys_of(module, given)
        device = given[keys[0]] if keys else _next_device(tree, module, given)
        loads.setdefault(main if device in kept else device, DeviceLoad()).kv_cache += size
    if streamed:
        # A module's own tensors are brought in for as long as it runs, and its children run meanwhile.
        at_once = (sum(streamed.get(above, 0) for above in _prefixes(module)) for module in streamed)
        loads.setdefault(main, DeviceLoad()).streaming = max(at_once)
    for device, load in loads.items():
        budget = budgets.get(device)
        if budget is not None and device in running:
            load.kv_cache = load.kv_cache if budget.kv_cache is None else budget.kv_cache
            load.activations = load.activations if budget.activations is None else budget.activations
    return loads


def budgets_of(policy: ResolvedPolicy, host: Host) -> dict[str, DeviceBudget]:
    """Return what the policy allows of each device of a host, by the device's name in a plan."""
    budgets = [accelerator_budget(one, policy, host) for one in host.accelerators]
    return {str(budget): budget for budget in [*budgets, cpu_budget(policy, host)]}


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _next_device(tree: ModelTree, module: str, given: dict[str, str]) -> str:
    """Return where a container's cache is that has no key of its own: where the next tensor in order is."""
    order = {one.path: at for at, one in enumerate(tree.modules)}
    named = [(order[path], name) for name, path, _ in tensors(tree)]
    behind = next((name for at, name in named if at >= order[module]), named[-1][1])
    return given[keys_of(behind, given)[0]]
