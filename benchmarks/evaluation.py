"""How good a device map is, whoever made it: one count of bytes and one model of time for all planners.

What is stored on the CPU or on disk runs on the lowest accelerator of the map, as accelerate runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from devpolicy import Host, ModelTree, Policy, ResolvedPolicy
from devpolicy._core.cost.speeds import Speeds, speed_of
from devpolicy._core.cost.times import ATTO, Costs
from devpolicy._core.language.policy import DeviceSelector, Workload
from devpolicy._core.memory.budgets import DeviceBudget, cpu_budget, disk_budget
from devpolicy._core.memory.sizing import size_model
from devpolicy._core.model.tree import Module
from devpolicy._core.placement.context import select_devices
from devpolicy._core.placement.divide import Unit


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a host: what may be used, and what everything costs."""

    tree: ModelTree
    host: Host
    policy: ResolvedPolicy

    @property
    def kind(self) -> str:
        return next((one.type for one in self.host.accelerators), "cpu")

    def devices(self) -> dict[str, DeviceBudget]:
        found = select_devices(DeviceSelector(self.kind), self.policy, self.host).devices
        kept = {"cpu": cpu_budget(self.policy, self.host), "disk": disk_budget(self.policy, self.host)}
        return {str(one): one for one in found} | kept

    def budgets(self) -> dict[str, int]:
        """Bytes that a plan may use on each device, headroom taken off."""
        return {name: max(0, one.budget) for name, one in self.devices().items()}


@dataclass(frozen=True, slots=True)
class Score:
    """One plan, scored."""

    feasible: bool
    over: str
    """The first device over its budget, with KV cache, activations and streaming counted."""
    peak: float
    """The largest share of an accelerator's budget."""
    offloaded: int
    crossings: int
    ms: float
    """Predicted milliseconds for each token."""

    @classmethod
    def nothing(cls, why: str) -> Score:
        """The planner failed."""
        return cls(False, why, 0.0, 0, 0, 0.0)


def score(case: Case, device_map: Mapping[str, Any]) -> Score:
    """Score a device map, whose keys may be nested: the longest prefix counts."""
    tree, devices, policy = case.tree, case.devices(), case.policy
    sizing = size_model(tree, policy.workload)
    costs = Costs(tree, policy.workload, sizing, Speeds.of(case.host))
    where = [_name(_read(device_map, _asked(module)), case.kind) for module in tree.modules]
    running = sorted({name for name in where if name in devices and name not in ("cpu", "disk")}, key=_number)
    if not running and case.kind != "cpu":
        return Score.nothing("runs on cpu")
    main = running[0] if running else "cpu"
    kept_on = {"cpu", "disk"} - {main}
    held, weights, merged = dict.fromkeys(devices, 0), dict.fromkeys(devices, 0), dict.fromkeys(devices, 0)
    walked: list[str] = []
    used: set[str] = set()
    time, offloaded, streaming = 0, 0, 0
    link = main != "cpu" and not devices[main].unified
    for at, module in enumerate(tree.modules):
        name = where[at]
        runs = main if name in kept_on else name
        unit = Unit(module.path, at, at + 1, True, (), kv_cache=sizing.kv_cache[at])
        held[runs] += sizing.kv_cache[at] + sizing.buffers[at]
        held[name] += sizing.weights[at]
        weights[name] += sizing.weights[at]
        merged[name] = max(merged[name], sizing.merged[at])
        time += costs.time(unit, speed_of(devices[runs].device, case.host, sizing.dtype))
        used.update([runs] if module.tensors else [])
        if costs.read(unit):
            walked.append(runs)
        if name in kept_on and sizing.full_weights[at]:
            offloaded += sizing.weights[at]
            streaming = max(streaming, sizing.full_weights[at])
            time += costs.transfer_time(unit, name, link=link)
    for name in used:
        held[name] += sizing.activations.each
    held[main] += streaming
    # What loading does not convert is read from the checkpoint, and costs the disk nothing.
    held["disk"] -= sum(
        sizing.weights[at] for at, name in enumerate(where) if name == "disk" and tree.modules[at].in_place
    )
    crossings = sum(one != other for one, other in pairwise(walked))
    time += crossings * costs.device_hop
    # While weights are loaded, a tensor that is made of others is there beside them.
    loads = {name: max(size, weights[name] + merged[name]) for name, size in held.items() if name != "disk"}
    over = [name for name, size in {**held, **loads}.items() if size > max(0, devices[name].budget)]
    shares = [held[name] / max(1, devices[name].budget) for name in running]
    return Score(not over, over[0] if over else "", max(shares, default=0.0), offloaded, crossings, _ms(time, costs))


def _ms(time: int, costs: Costs) -> float:
    return time * 1000 / ATTO / costs.tokens


def _asked(module: Module) -> str:
    """Return the path that a map has for what a module holds itself: a map may name its tensors, and not the module."""
    return ".".join(part for part in (module.path, *(one.name for one in module.tensors[:1])) if part)


def _read(device_map: Mapping[str, Any], path: str) -> Any:
    while path not in device_map and path:
        path = path.rpartition(".")[0]
    if path in device_map:
        return device_map[path]
    return next(iter(device_map.values()))  # a container without tensors of its own


def _name(device: Any, kind: str) -> str:
    if kind == "mps" and device == "cpu":
        return kind  # accelerate loads it there, whatever the map says
    return f"{kind}:{device}" if isinstance(device, int) else str(device)


def _number(name: str) -> int:
    return int(name.partition(":")[2] or 0)


def policy_of(
    host: Host, split: str, *, context: int | None = None, batch: int = 1, overflow: bool = True
) -> ResolvedPolicy:
    """The policy of ours that is compared: the host's accelerators, and what does not fit elsewhere."""
    kind = next((one.type for one in host.accelerators), "cpu")
    text = f'prefer = "{kind}"\nsplit = "{split}"\n'
    workload = Workload(context=context, batch=batch)
    policy = replace(Policy.parse(text).top, disk_path="offload", workload=workload)
    return replace(policy, overflow=(DeviceSelector("cpu"), DeviceSelector("disk"))) if overflow else policy
