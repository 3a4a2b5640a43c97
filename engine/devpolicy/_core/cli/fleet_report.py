"""`devpolicy report --fleet`: the plan of a fleet as a page.

Owns which parts the page has, and the summary of it that is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import devpolicy
from devpolicy._core.cli.context import CliContext
from devpolicy._core.cli.files import write_whole
from devpolicy._core.cli.fleet_plan import made, models_given, only
from devpolicy._core.cli.fleet_view import alike, fleet_line, granted, row, short_names, used_nodes
from devpolicy._core.cli.inputs import files_of, on_every_host
from devpolicy._core.cli.table import facts
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.views.fleet_report import About, Placed, UsedNode, fleet_report

if TYPE_CHECKING:
    from devpolicy._core.fleet.plan import FleetPlan
    from devpolicy._core.language.policy import Policy


def write_report(
    ctx: CliContext,
    policy: Policy,
    name: str,
    models: Sequence[str],
    output: str,
    *,
    component: str | None,
    profile: str | None,
    overrides: Sequence[str],
    target: str | None,
) -> None:
    """Write the page of a plan, and print a summary of it. Raises `Unsatisfiable` where there is no plan."""
    asked = on_every_host(policy, profile, overrides)
    fleet = Fleet.load(name)
    plan = made(ctx, asked, models_given(ctx, models), fleet, target)
    shown = plan if component is None else only(plan, component)
    write_whole(output, _page(shown, asked, fleet), inputs=[*files_of(policy), policy.source, name, *models])
    told = f"{len(shown.components):,} components and replicas on {len(shown.nodes):,} nodes"
    ctx.out.print(facts([("report", told), ("next", f"open {output} in a browser")], width=ctx.out.width))


def _page(plan: FleetPlan, policy: Policy, fleet: Fleet) -> str:
    """Return the report of a plan."""

    def placed(name: str) -> Placed:
        one = plan.components[name]
        return Placed(name, one.plan, (*row(one), granted(one)), one.elsewhere)

    nodes = [
        UsedNode(node, fleet[node], fleet.labels(node), [placed(name) for name in names])
        for node, names in used_nodes(plan, fleet)
    ]
    unused = [
        (short_names(nodes), fleet[nodes[0]]) for nodes in alike(fleet, [one for one in fleet if one not in plan.nodes])
    ]
    notes = [f"{one.code}: {one.message}" for one in plan.warnings]
    notes += [] if plan.certificate is None else plan.certificate.sentences
    about = About(policy.source, fleet_line(plan, fleet), plan.digest, devpolicy.__version__, notes)
    return fleet_report(nodes, unused, fleet.faults, about)
