"""Several plans of one host for people: each component, and the memory of each device with all of them.

Owns the human form of components that were planned together. How one plan is shown is `plan_view`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from devpolicy._core.cli.memory_bars import PARTS, Part, bars, gib
from devpolicy._core.cli.plan_view import (
    annotation_lines,
    component_facts,
    digest,
    placements,
    unused,
)
from devpolicy._core.cli.table import facts, table
from devpolicy._core.device import Device
from devpolicy._core.device.map import KEPT_LAST
from devpolicy._core.views.names import device_names, host_line

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line, Output
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.ledger import Budget
    from devpolicy._core.placement.plan import Plan

_GLYPHS = "█▓▒░▚▤▥▦▧▨"
_STYLES = ("weights", "kv_cache", "activations", "streaming", "others")
_OWN = ("weights", "kv_cache", "activations", "streaming")
"""The parts of a budget that a component takes itself."""
_WIDE = len("component")

Ledgers = Mapping[str, Sequence[tuple[str, "Budget"]]]
"""For each device the components that use it, in the order in which they were planned, with their budgets."""


def joint_view(
    plans: Mapping[str, Plan], policy: Policy, trees: Mapping[str, ModelTree | None], host: Host, out: Output
) -> list[Line]:
    """Return the lines of components that were planned together, composed for a screen."""
    pairs = [("policy", policy.source), ("host", host_line(host)), ("unused", unused(plans.values(), host))]
    lines = facts([(name.ljust(_WIDE), text) for name, text in pairs if text], width=out.width)
    for name, plan in plans.items():
        pairs = component_facts(plan, policy, trees[name])
        lines += ["", *facts([(name.ljust(_WIDE), text) for name, text in pairs], width=out.width)]
        lines += [
            "",
            *placements(plan, trees[name], width=out.width),
            *annotation_lines(plan, width=out.width),
            "",
            *digest(plan),
        ]
    ledgers = _by_device(plans)
    parts = _parts(list(plans))
    sizes = {device: _sizes(used) for device, used in ledgers.items()}
    lines += ["", *bars(sizes, parts, device_names(host), out)]
    return [*lines, "", *_figures(ledgers, width=out.width), ""]


def _by_device(plans: Mapping[str, Plan]) -> Ledgers:
    devices = dict.fromkeys(device for plan in plans.values() for device in plan.ledger)
    # Accelerators, then the CPU, then the disk, as in one plan's ledger.
    order = sorted(devices, key=_rank)
    return {
        device: [(name, plan.ledger[device]) for name, plan in plans.items() if device in plan.ledger]
        for device in order
    }


def _rank(name: str) -> tuple[int, str, int]:
    device = Device.from_str(name)
    return KEPT_LAST.get(device.type.value, 0), device.type.value, device.id or 0


def _parts(names: Sequence[str]) -> dict[str, Part]:
    """Return how each component and the rest of a device are drawn."""
    drawn = {
        _key(name): Part(name, _GLYPHS[at % len(_GLYPHS)], chr(ord("A") + at % 26), _STYLES[at % len(_STYLES)])
        for at, name in enumerate(names)
    }
    return {**drawn, "used_by_others": PARTS["used_by_others"], "headroom": PARTS["headroom"], "free": PARTS["free"]}


def _key(name: str) -> str:
    return f"component {name}"


def _own(budget: Budget) -> int:
    return sum(getattr(budget, part) for part in _OWN)


def _sizes(used: Sequence[tuple[str, Budget]]) -> dict[str, int]:
    last = used[-1][1]
    sizes = {_key(name): _own(budget) for name, budget in used}
    free = max(0, last.free)
    # On a pool that is shared with the CPU, the rest is what its other side takes.
    rest = last.cap - last.headroom - free - last.loading - sum(sizes.values())
    others = {"loading": last.loading, "used_by_others": max(0, rest)}
    return {**sizes, **others, "headroom": last.headroom, "free": free}


def _figures(ledgers: Ledgers, *, width: int) -> list[Line]:
    """Return each device's ledger in GiB: the share of each component, and the rest."""
    columns = [part for part in _OWN if any(getattr(one, part) for used in ledgers.values() for _, one in used)]
    head = ["in GiB", *(PARTS[part].label for part in columns), "in all"]
    rows: list[list[str]] = []
    for device, used in ledgers.items():
        rows.append([device])
        for name, budget in used:
            rows.append([f"  {name}", *(gib(getattr(budget, part)) for part in columns), gib(_own(budget))])
        sizes = _sizes(used)
        left = {"headroom": sizes["headroom"], "free": sizes["free"], "cap": used[-1][1].cap}
        left = {**{part: sizes[part] for part in ("loading", "used_by_others") if sizes[part]}, **left}
        if device != "disk":
            rows += [[f"  {what}", *[""] * len(columns), gib(size)] for what, size in left.items()]
    full = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return table(head, full, width=width, right=range(1, len(head)), styles={0: "device"})
