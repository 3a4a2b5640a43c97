"""What changes where a target computes on the CPU beside its accelerators, as llama.cpp does.

Owns three things. What is kept on the CPU runs there, so it is pinned to the CPU as to a device. What such a target
puts on the CPU by itself, the input embedding. And which layers may be there at all: the first ones, and each
accelerator holds one run of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from devpolicy._core.abilities import Target
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy, Rule
from devpolicy._core.memory.llama_cpp import (
    GATED,
    GATES,
    LAST_OF_EXPERTS,
    behind_gates,
    between_layers,
    head_of,
    is_input,
    is_mixture,
    rows_of,
)
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.context import PlacementContext

if TYPE_CHECKING:
    from devpolicy._core.placement.divide import Unit
    from devpolicy._core.placement.search import Solution

TARGET = "target"
"""The name under which a plan says that the target itself decides where something is."""

_EXPERTS = "Experts"
_LAYER = re.compile(r"blk\.(\d+)(?:\.(.*))?")


def experts_leave_first(policy: ResolvedPolicy, tree: ModelTree, target: Target) -> ResolvedPolicy:
    """Return a policy under which experts are the first to leave for the CPU, where `overflow` allows it.

    Computing there, an expert costs what few of its bytes cost to read: no other part is as cheap for what it frees.
    """
    to_cpu = tuple(one for one in policy.overflow if one.type == "cpu" and target.abilities.computes_on("cpu"))
    if not to_cpu or not is_mixture(tree):
        return policy
    reason = "no room for all experts, and `overflow` allows `cpu`, where few of their bytes are read for a token"
    # A layer of its own: rules of the policy that leave it nothing are not in its way.
    rule = Rule(name="overflow", module_class=(_EXPERTS,), overflow=to_cpu, reason=reason, layer=TARGET)
    return replace(policy, rules=(*policy.rules, rule))


def pin_of(name: str, reason: str) -> Rule:
    """Return the rule by which a plan says why something was pinned that no rule of the policy pins."""
    return Rule(name=name, prefer=(DeviceSelector("cpu"),), reason=reason)


def put_by_target(unit: Unit, context: PlacementContext) -> Rule | None:
    """Return why the target puts a unit on the CPU that no rule decides; `None` where it does not."""
    if context.cpu_number is None or context.target.abilities.fixed.get("input") != "cpu":
        return None
    module = context.tree.modules[unit.start]
    if not is_input(module):
        return None
    why = f"`{context.target.name}` keeps the input embedding on the CPU, unless a rule runs it elsewhere"
    return pin_of(TARGET, why)


def layer_of(path: str) -> tuple[int, str] | None:
    """Return the number of the layer that a unit is in, and its path inside; `None` for what is in none."""
    found = _LAYER.fullmatch(path)
    return None if found is None else (int(found[1]), found[2] or "")


def leads(inside: str) -> bool:
    """Whether a part of a layer is the one that says where the layer is: its KV cache follows it."""
    return inside == "" or inside.partition(".")[0] in ("attn", "ssm", "time", "shortconv")


def layer_devices(devices: Mapping[str, str]) -> dict[int, str]:
    """Return the device of each layer, given the device of each unit: that of its attention, or its state."""
    found: dict[int, str] = {}
    others: dict[int, str] = {}
    for path, device in devices.items():
        at = layer_of(path)
        if at is not None:
            (found if leads(at[1]) else others).setdefault(at[0], device)
    return dict(sorted({**others, **found}.items()))


def layers_on(
    units: Sequence[Unit], devices: Sequence[int], cpu: int | None, *, mixture: bool
) -> tuple[set[int], set[int]]:
    """Return the devices on which several layers, and those on which parts of layers, take more: see `Activations`.

    `devices` are the numbers of the units' devices, and `cpu` that of the CPU.
    """
    on: dict[int, set[int]] = {}
    for unit, device in zip(units, devices, strict=True):
        if unit.is_block or unit.block is not None:
            on.setdefault(unit.start if unit.block is None else unit.block, set()).add(device)
    return rows_of([*on.values()], cpu, mixture=mixture)


def scattered_on(units: Sequence[Unit], devices: Sequence[int], cpu: int | None) -> dict[int | None, int]:
    """Return the layers whose accelerators compute what goes with gates of their experts, which others compute."""
    home: dict[int | None, int] = {}
    gates: dict[int | None, int] = {}
    gated: dict[int | None, int] = {}
    for unit, device in zip(units, devices, strict=True):
        home.setdefault(unit.block, device)
        for end, of in ((GATES, gates), (GATED, gated)):
            if unit.path.endswith(end):
                of[unit.block] = device
    return {
        block: device
        for block, device in gated.items()
        if device == home[block] != cpu and gates.get(block, device) != device
    }


def cuts_attention(units: Sequence[Unit], devices: Sequence[int]) -> bool:
    """Whether the attention of a layer is in parts on several devices."""
    on: dict[int | None, set[int]] = {}
    for unit, device in zip(units, devices, strict=True):
        at = layer_of(unit.path)
        if at is not None and at[1].partition(".")[0] == "attn":
            on.setdefault(unit.block, set()).add(device)
    return any(len(of) > 1 for of in on.values())


def apart_on(units: Sequence[Unit], devices: Sequence[int], tree: ModelTree) -> set[int]:
    """Return the device of the head, where it has layers or parts of them, and not the last layer."""
    at = head_of(tree)
    head = next((device for unit, device in zip(units, devices, strict=True) if unit.start <= at < unit.end), None)
    homes: dict[int, int] = {}
    has = set[int]()
    for unit, device in zip(units, devices, strict=True):
        if unit.layer is not None:
            homes.setdefault(unit.layer, device)
            has.add(device)
    return {head} & has - {homes[max(homes)]} if head is not None and homes else set()


def joined_on(units: Sequence[Unit], devices: Sequence[int], cpu: int | None) -> set[int]:
    """Return the accelerators that compute the last matrix of a layer's experts, and neither the others nor the layer.

    What it multiplies is brought there. Where the device computes more than one matrix of another layer, or gates of
    another are brought there too, it is there beside what those take.
    """
    home: dict[int | None, int] = {}
    matrices: dict[tuple[int | None, int], int] = {}
    for unit, device in zip(units, devices, strict=True):
        home.setdefault(unit.block, device)
        if unit.path.endswith("exps"):
            at = unit.block, device
            matrices[at] = matrices.get(at, 0) + (1 if unit.path.endswith("_exps") else _MATRICES)
        elif unit.is_block and unit.block is None:
            matrices[unit.start, device] = _MATRICES
    last = [
        (unit.block, device) for unit, device in zip(units, devices, strict=True) if unit.path.endswith(LAST_OF_EXPERTS)
    ]
    apart = {(block, device) for block, device in last if device not in (cpu, home[block])}
    apart -= {
        at for at in apart if sum(count for (block, _), count in matrices.items() if block == at[0]) == matrices[at]
    }
    full = [at for at, count in matrices.items() if count > 1]
    full += scattered_on(units, devices, cpu).items()
    return {device for block, device in apart if any(other != block and on == device for other, on in full)}


def narrow_on(units: Sequence[Unit], devices: Sequence[int], cpu: int | None, tree: ModelTree) -> set[int]:
    """Return the accelerators that compute no matrix of experts but gates: see `Activations.narrow`."""
    behind = behind_gates(tree)
    wide = {
        device
        for unit, device in zip(units, devices, strict=True)
        if not behind.isdisjoint(range(unit.start, unit.end))
    }
    return {*devices} - wide - {cpu}


def between_on(units: Sequence[Unit], devices: Sequence[int]) -> set[int]:
    """Return the devices that have parts of two layers and of none all: see `between_layers`."""
    homes: dict[int, set[int]] = {}
    experts: dict[int, set[int]] = {}
    for unit, device in zip(units, devices, strict=True):
        if unit.layer is not None:
            of_experts = unit.path.endswith("exps")
            experts.setdefault(unit.layer, set())
            if of_experts or unit.is_block:
                experts[unit.layer].add(device)
            if not of_experts:
                homes.setdefault(unit.layer, set()).add(device)
    return between_layers([*homes.values()], [*experts.values()])


_MATRICES = 3
"""Of the experts of a layer that is whole."""


def _layers(units: Sequence[Unit], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the path and the device of each layer, in order: a piece of it that keeps a cache says where it is.

    Of a GGUF file that is its attention or state, wherever the cache is.
    """

    def says(unit: Unit) -> bool:
        at = layer_of(unit.path)
        return unit.kv_cache > 0 if at is None else leads(at[1])

    found: dict[int, Unit] = {}
    for unit in units:
        layer = unit.block if unit.block is not None else unit.start if unit.is_block else None
        if layer is not None and (layer not in found or (says(unit) and not says(found[layer]))):
            found[layer] = unit
    return [(unit.path, names[unit.path]) for _, unit in sorted(found.items())]


def _apart(units: Sequence[Unit], names: Mapping[str, str], order: Sequence[tuple[str, str]]) -> str | None:
    """Return what a target of whole layers would run elsewhere than planned, `None` where there is nothing.

    What comes before the layers is on the first one's device, and what comes behind them on the last one's.
    """
    devices = dict(order)
    starts = {unit.path: unit.start for unit in units if unit.path in devices}
    first, last = (min(starts.values()), max(starts.values())) if starts else (0, 0)
    for unit in units:
        if unit.block is not None and unit.path not in devices:
            whole = next((path for path in devices if path.rpartition(".")[0] == unit.path.rpartition(".")[0]), None)
            if whole is not None and devices[whole] != names[unit.path]:
                return f"runs whole layers, and `{unit.path}` is apart from the rest of its own"
        elif order and unit.start < first and names[unit.path] != order[0][1]:
            return f"runs `{unit.path}` with the first layer, on `{order[0][1]}`"
        elif order and unit.start > last and names[unit.path] != order[-1][1]:
            return f"runs `{unit.path}` with the last layer, on `{order[-1][1]}`"
    return None


def unfit(units: Sequence[Unit], solution: Solution, context: PlacementContext, *, tied: bool) -> Diagnostic | None:
    """Return why a target that takes runs of layers cannot express a solution, `None` where it can.

    `tied` is whether the file has one tensor for embedding and head: the head is a copy then, under the same name.
    """
    abilities = context.target.abilities
    names = {unit.path: str(context.devices[solution.device[at]]) for at, unit in enumerate(units)}
    order = _layers(units, names)
    first = next((at for at, (_, device) in enumerate(order) if device != "cpu"), len(order))
    late = next((layer for layer, device in order[first:] if device == "cpu"), None)
    name = context.target.name
    if late is not None and first < len(order):
        many = sum(device == "cpu" for _, device in order)
        paths = ", ".join(f"`{layer}`" for layer, _ in order[: min(many, 3)]) + (", ..." if many > 3 else "")
        message = f"`{name}` computes the first layers on the CPU, and `{late}` comes behind `{order[first][1]}`"
        help_ = f"keep the first {many} there ({paths}), or parts of layers, such as experts"
        return Diagnostic("DP404", message, help=help_)
    head = names.get("output")
    behind = order[-1][1] if order else head
    before = [device for _, device in order[:-1] if device != behind]
    if (
        tied
        and context.kind != "cpu"  # there both are one tensor
        and abilities.unit == "tensor"
        and (names.get("token_embd", "cpu") != "cpu" or head == "cpu" or (head != behind and head in before))
    ):
        message = f"the head is a copy of the embedding in this file, and `{name}` has one name for both"
        return Diagnostic("DP401", message, help="leave the embedding on the CPU, and the head behind the last layer")
    if abilities.unit == "layer":
        apart = _apart(units, names, order)
        if apart is not None:
            return Diagnostic("DP404", f"`{name}` {apart}", help=context.target.instead)
    runs = [device for at, (_, device) in enumerate(order) if at == 0 or order[at - 1][1] != device]
    if not abilities.any_order and runs != sorted(runs, key=[*map(str, context.devices)].index):
        message = f"`{name}` fills devices in the order of their ids, and the plan uses {', '.join(runs)}"
        return Diagnostic("DP404", message, help='name them in that order, or use one: `split = "never"`')
    sizes = {device: sum(other == device for _, other in order) for device in runs}
    if abilities.equal_stages and len(set(sizes.values())) > 1:
        listed = ", ".join(f"{count} on `{device}`" for device, count in sizes.items())
        message = f"`{name}` gives each device the same number of layers, and these would be {listed}"
        return Diagnostic("DP404", message, help='`split = "balanced"`, over a number of devices that divides them')
    twice = next((device for at, device in enumerate(runs) if device in runs[:at]), None)
    if twice is None or abilities.runs_per_device is None:
        return None
    message = f"`{name}` takes one run of layers for each device, and `{twice}` would hold several"
    return Diagnostic("DP404", message, help="match layers that follow one another, or leave the choice to `split`")
