"""`devpolicy host`: list and show the catalogue, host files and this machine. Capturing is a module of its own.

Owns the list of hosts, and the lines that describe one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.commands.capture import capture_host, measure_host
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Group
from devpolicy._core.cli.inputs import load_host, on_host
from devpolicy._core.cli.table import table
from devpolicy._core.language.policy import Policy, ResolvedPolicy
from devpolicy._core.sizes import GIB, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.memory.budgets import DeviceBudget


@click.group(name="host", cls=Group, short_help="List, show and capture hosts: the catalogue, files, this machine.")
def command() -> None:
    """List, show and capture hosts: the catalogue, host files, and this machine."""


command.add_command(capture_host)
command.add_command(measure_host)


@command.command(name="list", short_help="List the hosts of the catalogue.")
@common()
@pass_context
def list_hosts(ctx: CliContext) -> None:
    """List the hosts of the catalogue, small ones first, faulty ones last.

    \b
    Example:
      devpolicy host list
    """
    from devpolicy._core.simulation.catalogue import host_catalogue

    hosts = host_catalogue()
    if ctx.json:
        ctx.print_json({"schema": 1, "hosts": [host_facts(host) for host in hosts.values()]})
        return
    rows = [
        [name, in_short(host.accelerators), f"{host.memory / GIB:.0f} GiB", host.description or ""]
        for name, host in hosts.items()
    ]
    head = ["host", "accelerators", "RAM", "what it is"]
    ctx.out.print(table(head, rows, width=ctx.out.width, right=(2,), prose=True, styles={0: "device", 3: "dim"}))


@command.command(name="show")
@click.argument("host", default="-", shell_complete=complete.hosts)
@click.option(
    "--policy",
    metavar="POLICY",
    shell_complete=complete.policies,
    help="Show the caps and the headroom of its [memory].",
)
@common()
@pass_context
def show_host(ctx: CliContext, host: str, policy: str | None) -> None:
    """Print a host as TOML, with what a plan may use of each device.

    HOST is a name of the catalogue or a file. Without HOST, or with `-`, it is this machine. The output is a host file.
    For this machine it has the UUIDs of the devices; `devpolicy host capture` writes a file without them.

    \b
    Examples:
      devpolicy host show 2x24gb
      devpolicy host show --policy policy.toml
    """
    loaded = None if policy is None else Policy.load(policy)
    shown = load_host(ctx, host, loaded)
    rules = ResolvedPolicy() if loaded is None else on_host(loaded, shown, None, ()).top.for_host(shown)
    budgets = list(_budgets(shown, rules))
    if ctx.json:
        ctx.print_json(
            {
                "schema": 1,
                "host": host_facts(shown),
                "budgets": {
                    name: None
                    if budget is None
                    else {"cap": budget.cap, "headroom": budget.headroom, "budget": budget.budget}
                    for name, budget, _ in budgets
                },
            }
        )
        return
    ctx.out.print(host_lines(shown.to_toml()))
    head = ["device", "usable", "headroom", "cap", "why"]
    rows = [
        [
            name,
            *(
                (format_size(budget.budget), format_size(budget.headroom), format_size(budget.cap))
                if budget
                else ("-", "-", "-")
            ),
            why,
        ]
        for name, budget, why in budgets
    ]
    lines = table(
        head, rows, width=ctx.out.width - 1, right=(1, 2, 3), prose=True, styles=dict.fromkeys(range(5), "dim")
    )
    ctx.out.print(["", [("# What a plan may use, of the free memory in steps of 256 MiB:", "dim")]])
    ctx.out.print([[("#", "dim"), *([(line, "")] if isinstance(line, str) else line)] for line in lines])


def _budgets(host: Host, policy: ResolvedPolicy) -> list[tuple[str, DeviceBudget | None, str]]:
    """Return each device with what a plan may ask of it; without where it has a fault."""
    from devpolicy._core.memory.budgets import accelerator_budget, cpu_budget, disk_budget

    result: list[tuple[str, DeviceBudget | None, str]] = []
    for one in host.accelerators:
        fault = one.fault or host.fault(one.type)
        why = fault or ("shares one pool with cpu" if one.unified else "")
        result.append((f"{one.type}:{one.id}", None if fault else accelerator_budget(one, policy, host), why))
    result.append(("cpu", cpu_budget(policy, host), ""))
    result.append(("disk", disk_budget(policy, host), "only what is rewritten counts"))
    return result


def host_lines(toml: str) -> list[Line]:
    """Return the TOML of hosts with its keys in colour."""
    lines: list[Line] = []
    for text in toml.removesuffix("\n").split("\n"):
        key, equals, value = text.partition(" = ")
        lines.append([(key, "device"), (equals + value, "")] if equals else [(text, "strong")])
    return lines


def in_short(accelerators: Sequence[Accelerator]) -> str:
    """Return accelerators in short: `cuda 4 x 80 GiB`, `cuda 24+24+12+8 GiB`."""
    kinds = dict.fromkeys(one.type for one in accelerators)
    told = []
    for kind in kinds:
        sizes = [f"{one.memory / GIB:.0f}" for one in accelerators if one.type == kind]
        alike = len(set(sizes)) == 1 and len(sizes) > 1
        told.append(f"{kind} {f'{len(sizes)} x {sizes[0]}' if alike else '+'.join(sizes)} GiB")
    return ", ".join(told) or "none"


def host_facts(host: Host) -> dict[str, Any]:
    """Return a host for JSON; sizes are bytes."""
    keys = ("name", "description", "os", "arch", "memory", "free", "disk", "disk_free")
    return {
        **{key: getattr(host, key) for key in keys},
        "versions": dict(host.versions),
        "faults": dict(host.faults),
        "accelerators": [_accelerator(one) for one in host.accelerators],
    }


def _accelerator(one: Accelerator) -> dict[str, Any]:
    keys = ("type", "id", "name", "memory", "free", "capability", "unified", "fault", "physical", "uuid")
    return {key: list(value) if isinstance(value := getattr(one, key), tuple) else value for key in keys}
