"""Plans for dry runs, and plans that are wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

from devpolicy import ComponentDevice, Device, DeviceMap, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.placement.plan import Placements

BALANCED = 'prefer = "cuda"\nsplit = "balanced"\n[workload]\ncontext = 256\n'


def balanced(model: str | ModelTree, host: Host | str = "2x24gb", text: str = BALANCED) -> Plan:
    return plan(Policy.parse(text), model, host)


def cut(made: Plan, tree: ModelTree, block: str, part: str, device: str) -> Plan:
    """The same plan with one part of a block on another device than the rest of it."""
    there = Device.from_str(device)
    entries: dict[str, Device] = {}
    units = {}
    for path, unit in made.placements.items():
        if path != block:
            units[path] = unit
            entries[path] = unit.device
            continue
        for child in tree.children(tree.index[block]):
            name = tree.modules[child].path
            to = there if name == part else unit.device
            inside = tree.modules[child : tree.subtree_end[child]]
            held = sum(tensor.bytes_as(None) for module in inside for tensor in module.tensors)
            units[name] = replace(unit, device=to, runs_on=to, bytes=held)
            entries[name] = to
    ledger = {
        name: replace(budget, weights=sum(unit.bytes for unit in units.values() if str(unit.device) == name))
        for name, budget in made.ledger.items()
    }
    whole = ComponentDevice.from_multiple(DeviceMap(entries))
    return replace(made, device=whole, placements=Placements(units), ledger=ledger)
