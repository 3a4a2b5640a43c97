"""What each device holds by a plan's device map, counted anew.

Owns the naive count: tensor by tensor, from the map that the consumer is given and the model, without the planner's
units, ledger or search. It shares with the planner what `memory` owns: the bytes of a cache and of activations, and
what a policy allows of each device. `tests/oracle.py` states that arithmetic once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.abilities import target_of
from devpolicy._core.device import Device
from devpolicy._core.memory.activations import Runs
from devpolicy._core.memory.budgets import accelerator_budget, cpu_budget, device_of
from devpolicy._core.memory.llama_cpp import (
    GATED,
    GATES,
    LAST_OF_EXPERTS,
    behind_gates,
    between_layers,
    ends_of,
    head_of,
    is_input,
    is_mixture,
    rows_of,
)
from devpolicy._core.memory.sizing import activations_of, kv_caches

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import ResolvedPolicy, Workload
    from devpolicy._core.memory.budgets import DeviceBudget
    from devpolicy._core.model.tree import ModelTree, Tensor
    from devpolicy._core.placement.ledger import Budget
    from devpolicy._core.placement.plan import Plan

KEPT = ("cpu", "disk")


@dataclass(slots=True)
class DeviceLoad:
    """Bytes on one device."""

    weights: int = 0
    kv_cache: int = 0
    streaming: int = 0
    activations: int = 0
    merged: int = 0
    """The largest tensor that loading makes of others there."""

    @property
    def total(self) -> int:
        """All of it, while it runs or while it is loaded."""
        return self.weights + max(self.kv_cache + self.streaming + self.activations, self.merged)


class TensorRow(NamedTuple):
    """One tensor of a model: its full name, its module's path, itself, and the keys of a map that would cover it."""

    name: str
    module: str
    tensor: Tensor
    keys: tuple[str, ...]


def tensors(tree: ModelTree) -> tuple[TensorRow, ...]:
    """Return every tensor of a model, in order."""
    return tree.remembered("tensors", lambda: tuple(_tensors(tree)))


def _tensors(tree: ModelTree) -> Iterator[TensorRow]:
    for module in tree.modules:
        above = tuple(_prefixes(module.path)) if module.tensors else ()
        for tensor in module.tensors:
            name = f"{module.path}.{tensor.name}" if module.path else tensor.name
            # A tensor's name has no dots of its own, but for what is read from names alone.
            keys = (name, *above) if "." not in tensor.name else tuple(_prefixes(name))
            yield TensorRow(name, module.path, tensor, keys)


def device_map(plan: Plan) -> dict[str, str]:
    """Return the map that the consumer is given: one device is the key of the whole model."""
    if plan.device is None:  # of a group its first device
        return {path: str(unit.runs_on) for path, unit in plan.placements.items()}
    form = plan.device.to_dict()
    return dict(form["device_map"]) if "device_map" in form else {"": form["device"]}


def keys_of(name: str, given: Mapping[str, str]) -> list[str]:
    """Return the keys of a map that cover a tensor or a module: one, in a sound map."""
    return [prefix for prefix in _prefixes(name) if prefix in given]


def _prefixes(name: str) -> Iterator[str]:
    """Yield a path and those above it, the root's last."""
    parts = name.split(".") if name else []
    return (".".join(parts[:length]) for length in range(len(parts), -1, -1))


def places_of(tree: ModelTree, given: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the devices that a map gives each tensor: one, in a sound map."""

    def read() -> dict[str, list[str]]:
        return {row.name: [given[key] for key in row.keys if key in given] for row in tensors(tree)}

    return tree.remembered(("places", tuple(given.items())), read)


def misplaced(tree: ModelTree, given: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the first tensor to which a map does not give one device, and how many it gives; `None` in a sound map."""

    def find() -> tuple[str, int] | None:
        places = places_of(tree, given)
        return next(((name, len(devices)) for name, devices in places.items() if len(devices) != 1), None)

    return tree.remembered(("misplaced", tuple(given.items())), find)


def recount(
    plan: Plan, tree: ModelTree, policy: ResolvedPolicy, budgets: Mapping[str, DeviceBudget]
) -> dict[str, DeviceLoad]:
    """Return what each device holds; `budgets` replace derived figures where the policy does. Tensors times depth."""
    if plan.device is None or plan.streaming or plan.kept_by_engine:  # nothing of this is in a map
        return {device: _load(budget) for device, budget in plan.ledger.items()}
    given, workload = device_map(plan), policy.workload
    computes = target_of(plan.target).abilities.computes_on("cpu")
    cache_on = plan.workload.kv_offload if plan.workload else None
    may_copy = plan.workload is None or plan.workload.pipelined
    what = "loads", tuple(given.items()), workload, computes, cache_on, may_copy
    counted = tree.remembered(what, lambda: _count(given, tree, workload, _kept(given, computes), cache_on, may_copy))
    loads = {device: replace(load) for device, load in counted.items()}
    kept = _kept(given, computes)
    for device, load in loads.items():
        budget = budgets.get(device)
        if budget is not None and device not in kept:
            stated = budget.kv_cache is not None and device != cache_on
            load.kv_cache = budget.kv_cache or 0 if stated else load.kv_cache
            load.activations = load.activations if budget.activations is None else budget.activations
    return loads


def _load(budget: Budget) -> DeviceLoad:
    merged = max(0, budget.load - budget.weights)
    return DeviceLoad(budget.weights, budget.kv_cache, budget.activations, budget.streaming, merged)


def _main(given: Mapping[str, str]) -> str:
    return min((device for device in given.values() if device not in KEPT), key=_number, default="cpu")


def _kept(given: Mapping[str, str], computes: bool) -> set[str]:
    """Return the devices of a map that keep weights and run nothing; the CPU is none where the consumer `computes`."""
    return {place for place in KEPT if place != _main(given) and not (computes and place == "cpu")}


def _count(
    given: Mapping[str, str], tree: ModelTree, workload: Workload, kept: set[str], cache_on: str | None, may_copy: bool
) -> dict[str, DeviceLoad]:
    main, places = _main(given), places_of(tree, given)
    loads: dict[str, DeviceLoad] = {}
    again = {name for group in tree.ties for name in group[1:]}
    streamed: dict[str, int] = {}
    for name, module, tensor, _ in tensors(tree):
        device, size = places[name][0], tensor.bytes_as(workload.dtype)
        if device in kept and not tensor.buffer:
            size = tensor.elsewhere_as(workload.dtype)
            streamed[module] = streamed.get(module, 0) + size
        elif device in kept:
            device = main  # buffers stay where the module runs
        load = loads.setdefault(device, DeviceLoad())
        load.weights += 0 if name in again else size
        load.merged = max(load.merged, tensor.beside_as(workload.dtype))
    if not loads:
        return {}  # a model without tensors runs nowhere, and caches nothing
    if {"cpu", "disk"} <= loads.keys():  # what is written to the disk is made in the CPU's memory
        loads["cpu"].merged = max(loads["cpu"].merged, loads["disk"].merged)
    activations = activations_of(tree, workload)
    ends = {end: _device_of(tree, tree.modules[at].path, given, places) for end, at in ends_of(tree).items()}
    on_the_cpu = (tree.modules[tree.index[row.module]] for row in tensors(tree) if places[row.name][0] == "cpu")
    beside_cpu = main != "cpu" and "cpu" not in kept and not all(map(is_input, on_the_cpu))
    layers = _layers(tree, places) if activations.parted else {}
    whole = all(len(on) == 1 for on in layers.values())
    pipelined = may_copy and len(loads.keys() - {*KEPT}) > 1 and not beside_cpu and whole
    several, parted = rows_of([*layers.values()], "cpu", mixture=is_mixture(tree))
    joined = _joined(tree, places) if activations.joined and not whole else set[str]()
    scattered = _scattered(tree, places) if activations.parted and not whole else dict[str, str]()
    apart = _apart(tree, places) if activations.parted else set[str]()
    cut = activations.scores > 0 and not whole and _cuts_attention(tree, places)
    wide = _beyond_gates(tree, places) if activations.narrow else loads.keys()
    between = _between(tree, places) if activations.narrow else set[str]()
    several, parted = several - between, parted - between
    for device in loads.keys() - kept:
        runs = {end: at == device or (device == main and at in kept) for end, at in ends.items()}
        of_layers = {"several": device in several, "parted": device in parted, "joined": device in joined}
        of_layers["narrow"] = device not in wide and device != "cpu"
        of_layers |= {"scattered": device in scattered.values(), "apart": device in apart, "cut": cut}
        loads[device].activations = activations.on(Runs(**runs, **of_layers), pipelined=pipelined)
    for module, size in kv_caches(tree, workload):
        device = cache_on or _device_of(tree, module, given, places)
        loads.setdefault(main if device in kept else device, DeviceLoad()).kv_cache += size
    if streamed:
        # A module's own tensors are brought in for as long as it runs, and its children run meanwhile.
        at_once = (sum(streamed.get(above, 0) for above in _prefixes(module)) for module in streamed)
        loads.setdefault(main, DeviceLoad()).streaming = max(at_once)
    return loads


def _layers(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Return the devices of each layer, by its number."""
    layers: dict[str, set[str]] = {}
    for row in tensors(tree):
        block, number, *_ = (*row.module.split("."), "")
        if block == "blk":
            layers.setdefault(number, set()).add(places[row.name][0])
    return layers


def _joined(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the devices that compute the last matrix of some experts alone: see `Activations.joined`."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    scattered = _scattered(tree, places)
    experts: dict[str, list[str]] = {}
    for row in tensors(tree):
        number, device = ".".join(row.module.split(".")[:2]), places[row.name][0]
        first.setdefault(number, device)
        if row.module.endswith("_exps"):
            experts.setdefault(number, []).append(device)
        if row.module.endswith(LAST_OF_EXPERTS):
            last[number] = device
    return {
        device
        for number, device in last.items()
        if device not in ("cpu", first[number])
        and len({*experts[number]}) > 1
        and any(
            of.count(device) > 1 or scattered.get(other) == device for other, of in experts.items() if other != number
        )
    }


def _scattered(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the layers whose accelerators have what goes with gates of experts elsewhere: see `Runs.scattered`."""
    first: dict[str, str] = {}
    of: dict[str, dict[str, str]] = {GATES: {}, GATED: {}}
    for row in tensors(tree):
        number, device = ".".join(row.module.split(".")[:2]), places[row.name][0]
        first.setdefault(number, device)
        for end, found in of.items():
            if row.module.endswith(end):
                found[number] = device
    return {
        number: device
        for number, device in of[GATED].items()
        if device == first[number] != "cpu" and of[GATES].get(number, device) != device
    }


def _cuts_attention(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> bool:
    """Whether the attention of a layer is in parts on several devices."""
    on: dict[str, set[str]] = {}
    for row in tensors(tree):
        block, number, part, *_ = (*row.module.split("."), "", "")
        if block == "blk" and part == "attn":
            on.setdefault(number, set()).add(places[row.name][0])
    return any(len(of) > 1 for of in on.values())


def _apart(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the device of the head where it has layers, and not the last one: see `Runs.apart`."""
    layers: dict[int, list[str]] = {}
    for row in tensors(tree):
        block, number, *_ = (*row.module.split("."), "")
        if block == "blk":
            layers.setdefault(int(number), []).append(places[row.name][0])
    head = tree.modules[head_of(tree)].path
    on = {places[row.name][0] for row in tensors(tree) if row.module == head}
    return on & {device for of in layers.values() for device in of} - {layers[max(layers)][0]} if layers else set()


def _between(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the devices that have parts of two layers and of none all: see `between_layers`."""
    homes: dict[str, set[str]] = {}
    experts: dict[str, set[str]] = {}
    for row in tensors(tree):
        block, number, *_ = (*row.module.split("."), "")
        if block == "blk":
            homes.setdefault(number, set())
            experts.setdefault(number, set())
            of = experts if row.module.endswith("_exps") else homes
            of[number].add(places[row.name][0])
    return between_layers([*homes.values()], [*experts.values()])


def _beyond_gates(tree: ModelTree, places: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the devices that compute more of experts than their gates: see `Activations.narrow`."""
    behind = {tree.modules[at].path for at in behind_gates(tree)}
    return {places[row.name][0] for row in tensors(tree) if row.module in behind}


class Budgets(Mapping[str, "DeviceBudget"]):
    """What a policy allows of each device of a host, by the device's name in a plan; computed when it is asked for."""

    def __init__(self, policy: ResolvedPolicy, host: Host) -> None:
        self._policy, self._host = policy, host
        self._accelerators = {str(device_of(one)): one for one in host.accelerators}
        self._known: dict[str, DeviceBudget] = {}

    def __getitem__(self, device: str) -> DeviceBudget:
        if device not in self._known:
            made = (
                cpu_budget(self._policy, self._host)
                if device == "cpu"
                else accelerator_budget(self._accelerators[device], self._policy, self._host)
            )
            self._known[device] = made
        return self._known[device]

    def __contains__(self, device: object) -> bool:
        return device == "cpu" or device in self._accelerators

    def __iter__(self) -> Iterator[str]:
        return iter((*self._accelerators, "cpu"))

    def __len__(self) -> int:
        return len(self._accelerators) + 1


def _number(device: str) -> int:
    return Device.from_str(device).id or 0


def _device_of(tree: ModelTree, module: str, given: Mapping[str, str], places: Mapping[str, Sequence[str]]) -> str:
    """Return where a module runs: on the device of its key, else where the next tensor in order is."""
    keys = keys_of(module, given)
    return given[keys[0]] if keys else _next_device(tree, module, places)


def _next_device(tree: ModelTree, module: str, places: Mapping[str, Sequence[str]]) -> str:
    """Return where a container's cache is that has no key of its own: where the next tensor in order is."""
    rows = tensors(tree)
    behind = next((row.name for row in rows if tree.index[row.module] >= tree.index[module]), rows[-1].name)
    return places[behind][0]
