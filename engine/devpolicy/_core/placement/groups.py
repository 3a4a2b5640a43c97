"""Groups of equal devices, over which every unit is divided: tensor parallelism.

Owns what a group is and how it is placed on. Placement does not learn it: a group is its first device, whose budget is
that of the member with the least room, and what a unit takes is what each member holds of it. Afterwards every member
is in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from devpolicy._core.abilities import Target
from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.fields import TensorSplit
from devpolicy._core.memory.budgets import DeviceBudget, accelerator_of
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.apply_rules import Refused
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division
from devpolicy._core.placement.ledger import Budget

Groups = Mapping[Device, tuple[DeviceBudget, ...]]
"""The members of each group by its first device."""


def groups_of(context: PlacementContext, split: TensorSplit) -> Groups:
    """Return the groups of an entry of `prefer`, in the order of ids. Raises `Refused` where there are none.

    Without a size, one group of all its devices.
    """
    check_divides(context.target)
    devices = [context.devices[at] for at in sorted(context.open)]
    alike: dict[tuple[str | None, int], list[DeviceBudget]] = {}
    for one in devices:
        card = accelerator_of(str(one), context.host)
        alike.setdefault((card.name, card.memory) if card else (None, 0), []).append(one)
    size = split.tensor or len(devices)
    if not split.tensor and len(alike) > 1:
        firsts = " and ".join(f"`{ones[0]}`" for ones in list(alike.values())[:2])
        message = f"{firsts} are unlike, and every unit is divided evenly"
        help_ = 'name equal ones: `prefer = { device = "cuda", same = ["name"] }`, or `split = { tensor = 2 }`'
        raise Refused(Diagnostic("DP409", message, help=help_))
    found = [ones[at : at + size] for ones in alike.values() for at in range(0, len(ones) - size + 1, size)]
    if not found:
        raise Refused(Diagnostic("DP301", f"no {size} equal devices for `split = {{ tensor = {size} }}`"))
    _check_heads(context.tree, size)
    return {ones[0].device: tuple(ones) for ones in sorted(found, key=lambda ones: ones[0].device.id or 0)}


def check_divides(target: Target) -> None:
    """Raise `Refused` where a target cannot divide units."""
    if "tensor" not in target.abilities.groups:
        message = f"`{target.name}` divides no unit over devices"
        raise Refused(Diagnostic("DP409", message, help='plan for one that does: `target = "vllm"`, or `"sglang"`'))


def on_groups(context: PlacementContext, groups: Groups) -> PlacementContext:
    """Return a context whose devices are groups, each with the budget of the member that has least."""
    devices = tuple(
        replace(min(members, key=lambda one: one.budget), device=leader) for leader, members in groups.items()
    )
    return replace(context, devices=devices, open=frozenset(range(len(devices))))


def share_of(division: Division, tree: ModelTree, size: int) -> Division:
    """Return a division whose units take what one of so many devices holds of them.

    A cache is divided by heads of keys: where there are fewer than devices, several hold the same.
    """
    heads = number_of(tree, "num_key_value_heads") or size
    # Latent attention has one cache for all heads.
    parts = 1 if number_of(tree, "kv_lora_rank") else min(size, heads)

    def of(bytes_: int, count: int) -> int:
        return -(-bytes_ // count)

    units = tuple(
        replace(
            unit,
            weights=of(unit.weights, size),
            elsewhere=of(unit.elsewhere, size),
            merged=of(unit.merged, size),
            onload_peak=of(unit.onload_peak, size),
            kv_cache=of(unit.kv_cache, parts),
        )
        for unit in division.units
    )
    return replace(division, units=units)


def with_members(ledger: Mapping[str, Budget], groups: Groups) -> dict[str, Budget]:
    """Return a ledger with every member of each group: they hold the same, beside what others have of each."""
    found: dict[str, Budget] = {}
    for device, budget in ledger.items():
        members = groups.get(Device.from_str(device), ())
        for one in members:
            own = {"used_by_others": one.used_by_others, "headroom": one.headroom, "cap": one.cap}
            found[str(one)] = replace(budget, **own)
        if not members:
            found[device] = budget
    return dict(sorted(found.items(), key=lambda entry: _order(entry[0])))


def _order(device: str) -> tuple[bool, str, int]:
    one = Device.from_str(device)
    return one.type.value in ("cpu", "disk"), one.type.value, one.id or 0


def _check_heads(tree: ModelTree, size: int) -> None:
    heads = number_of(tree, "num_attention_heads")
    if heads and heads % size:
        message = f"`{tree.name}` has {heads} attention heads, which {size} devices cannot share evenly"
        raise Refused(Diagnostic("DP404", message, help="take a number of devices that divides them"))


def number_of(tree: ModelTree, key: str) -> int | None:
    """Return a number of a configuration, of the part that generates text where it has several."""
    table = json.loads(tree.config) if tree.config else {}
    for one in (table, table.get("text_config")):
        if isinstance(one, dict) and isinstance(one.get(key), int):
            return int(one[key])
    return None
