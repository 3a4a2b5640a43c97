"""`devpolicy fleet`: list and show fleets: the catalogue, fleet files, folders of host files.

Owns the tables of a fleet's nodes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.commands.host import host_facts, host_lines, in_short
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.fleet_view import alike, short_names
from devpolicy._core.cli.group import Group
from devpolicy._core.cli.table import table
from devpolicy._core.fleet.catalogue import catalogue
from devpolicy._core.fleet.ray_forms import node_labels, node_resources
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.sizes import GIB

if TYPE_CHECKING:
    pass


@click.group(name="fleet", cls=Group, short_help="List and show fleets: the catalogue, files, folders of host files.")
def command() -> None:
    """List and show fleets: the catalogue, fleet files, and folders of host files."""


@command.command(name="list", short_help="List the fleets of the catalogue.")
@common()
@pass_context
def list_fleets(ctx: CliContext) -> None:
    """List the fleets of the catalogue.

    \b
    Example:
      devpolicy fleet list
    """
    fleets = [Fleet.load(name) for name in catalogue()]
    if ctx.json:
        ctx.print_json({"schema": 1, "fleets": [_facts(fleet) for fleet in fleets]})
        return
    rows = [
        [fleet.name or "", str(len(fleet)), str(len(fleet.faults) or ""), fleet.description or ""] for fleet in fleets
    ]
    head = ["fleet", "nodes", "faults", "what it is"]
    ctx.out.print(table(head, rows, width=ctx.out.width, right=(1, 2), prose=True, styles={0: "device", 3: "dim"}))


@command.command(name="show")
@click.argument("fleet", shell_complete=complete.fleets)
@click.option("--toml", "as_toml", is_flag=True, help="Print it as a fleet file, with every host in full.")
@click.option("--ray", "for_ray", is_flag=True, help="Print how each node is started, so that Ray finds it.")
@common()
@pass_context
def show_fleet(ctx: CliContext, fleet: str, as_toml: bool, for_ray: bool) -> None:
    """Print the nodes of a fleet.

    FLEET is a name of the catalogue, a fleet file, or a folder with one host file for each node.

    \b
    Examples:
      devpolicy fleet show 4-workstations
      devpolicy fleet show ./captured --toml
      devpolicy fleet show 4-workstations --ray
    """
    shown = Fleet.load(fleet)
    if ctx.json:
        hosts = {node: {"labels": dict(shown.labels(node)), "host": host_facts(shown[node])} for node in shown}
        ctx.print_json({"schema": 1, "fleet": {**_facts(shown), "nodes": hosts}})
    elif for_ray:
        ctx.out.print(started(shown))
    elif as_toml:
        ctx.out.print(host_lines(shown.to_toml()))
    else:
        rows = [
            [
                short_names(nodes),
                in_short(shown[nodes[0]].accelerators),
                f"{shown[nodes[0]].memory / GIB:.0f} GiB",
                ", ".join(f"{name}={value}" for name, value in shown.labels(nodes[0]).items()),
            ]
            for nodes in alike(shown, shown)
        ]
        rows += [[node, f"not used: {reason}", "", ""] for node, reason in shown.faults.items()]
        head = ["node", "accelerators", "RAM", "labels"]
        ctx.out.print(table(head, rows, width=ctx.out.width, right=(2,), prose=True, styles={0: "device", 3: "dim"}))


def started(fleet: Fleet) -> Iterator[str]:
    """Yield the command that starts each node as a member of a Ray cluster."""
    for node in fleet:
        labels = ",".join(
            f"{name}={value}" for name, value in {**fleet.labels(node), **node_labels(fleet, node)}.items()
        )
        words = ["ray", "start", "--address=$HEAD", f"--labels={labels}"]
        resources = node_resources(fleet[node])
        words += [f"--resources={json.dumps(resources)}"] if resources else []
        yield f"# {node}"
        yield " ".join(word if word == "--address=$HEAD" else shlex.quote(word) for word in words)


def _facts(fleet: Fleet) -> dict[str, Any]:
    """Return a fleet for JSON, without its hosts."""
    return {
        "name": fleet.name,
        "description": fleet.description,
        "nodes": list(fleet),
        "faults": dict(fleet.faults),
    }
