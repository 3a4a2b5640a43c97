"""How the plan of a fleet is shown: in a terminal, and as a picture.

Owns the human form of a fleet's plan and of its changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from devpolicy._core.cli.memory_bars import gib
from devpolicy._core.cli.table import facts, table
from devpolicy._core.views.names import device_names, device_range
from devpolicy._core.views.picture import Titled

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.fleet.changes import Move
    from devpolicy._core.fleet.plan import FleetPlan, NodePlan
    from devpolicy._core.fleet.values import Fleet
    from devpolicy._core.language.policy import Policy


def fleet_line(plan: FleetPlan, fleet: Fleet) -> str:
    """Return a fleet in a line, with how many of its nodes a plan uses."""
    faults = f", {len(fleet.faults)} with a fault" if fleet.faults else ""
    return f"{fleet.name or 'a fleet'}: {len(fleet)} nodes{faults}, {len(plan.nodes)} of them used"


def used_nodes(plan: FleetPlan, fleet: Fleet) -> list[tuple[str, tuple[str, ...]]]:
    """Return the nodes that a plan uses in the fleet's order, with their components."""
    used = plan.nodes
    return [(node, used[node]) for node in fleet if node in used]


def view(
    plan: FleetPlan, policy: Policy, fleet: Fleet, changed: Sequence[Move] | None, width: int, *, locked: str | None
) -> list[Line]:
    """Return the plan of a fleet, for people."""
    lines: list[Line] = [*facts([("policy", policy.source), ("fleet", fleet_line(plan, fleet))], width=width), ""]
    several = any(one.plan.granted is not None for one in plan.components.values())
    rows = [
        [node, name, *row(plan.components[name]), *([granted(plan.components[name])] if several else [])]
        for node, names in used_nodes(plan, fleet)
        for name in names
    ]
    head = ["node", "component", "executes on", "GiB", *(["granted"] if several else [])]
    lines += table(head, rows, width=width, right=(3,), prose=True, styles={0: "device"})
    if changed is not None:
        lines += ["", *moves_lines(changed)]
    if plan.certificate is not None:
        told = [("bound" if at == 0 else "", text) for at, text in enumerate(plan.certificate.sentences)]
        lines += ["", *facts(told, width=width)]
    pairs = [("digest", plan.digest), *([("locked", f"unchanged, as in {locked}")] if locked else [])]
    return [*lines, "", *facts(pairs, width=width)]


def row(one: NodePlan) -> tuple[str, str]:
    """Return where a component executes and what it is kept on, and its GiB."""
    devices = list(dict.fromkeys(str(unit.runs_on) for unit in one.plan.placements.values()))
    held = sum(budget.held for budget in one.plan.ledger.values())
    kept = sorted({str(unit.device) for unit in one.plan.placements.values() if unit.device != unit.runs_on})
    return (device_range(devices) + "".join(f"+{place}" for place in kept), gib(held))


def granted(one: NodePlan) -> str:
    """Return what was granted to a component, empty where it has no wishes."""
    return "" if one.plan.granted is None else str(one.plan.granted).partition(" on ")[0].rstrip(",")


def moves_lines(changed: Sequence[Move]) -> list[Line]:
    """Return what moves, for people."""
    if not changed:
        return [[("nothing moves", "good")]]
    return [[("moves", "strong")], *(f"  {one}" for one in changed)]


def titled(plan: FleetPlan, fleet: Fleet) -> list[Titled]:
    """Return the plans under the names of their components and nodes, for a picture."""
    return [
        Titled(f"{name} on {node}", plan.components[name].plan, device_names(fleet[node]))
        for node, names in used_nodes(plan, fleet)
        for name in names
    ]


def alike(fleet: Fleet, nodes: Iterable[str]) -> list[list[str]]:
    """Return nodes in groups that have equal hosts and labels, in the order of their names."""
    groups: list[list[str]] = []
    for node in nodes:
        last = groups[-1][0] if groups else None
        if last is not None and fleet[last] == fleet[node] and fleet.labels(last) == fleet.labels(node):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def short_names(nodes: Iterable[str]) -> str:
    """Return the names of nodes in short: `rack-a-0 … rack-a-3`."""
    first, *rest = nodes
    return f"{first} … {rest[-1]}" if len(rest) > 1 else ", ".join([first, *rest])
