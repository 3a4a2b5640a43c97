"""`devpolicy doctor`: what each installed library sees of this machine.

Owns the tables and the JSON. What is examined, and which findings there are, is decided by `devpolicy._core.doctor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.commands.host import in_short
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import load_host
from devpolicy._core.cli.report import for_machines, painted, rendered
from devpolicy._core.cli.table import facts, table
from devpolicy._core.doctor import LIBRARIES, TIMEOUT, examine
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.disk_cache import DiskCache
    from devpolicy._core.doctor import Report
    from devpolicy._core.doctor.library_report import LibraryReport
    from devpolicy._core.host import Accelerator


@click.command(cls=Command, name="doctor", short_help="Show what each library sees of this machine, and the fix.")
@click.argument("libraries", metavar="[LIBRARY]...", nargs=-1, type=click.Choice(list(LIBRARIES)))
@click.option(
    "--host",
    metavar="HOST",
    shell_complete=complete.hosts,
    help="A simulated host: a name of the catalogue, or a host file.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    default=TIMEOUT,
    show_default=True,
    help="The time limit for each library.",
)
@common()
@pass_context
def command(ctx: CliContext, libraries: tuple[str, ...], host: str | None, timeout: float) -> int:
    """Show what each installed library sees of this machine, where they disagree, and the fix.

    Each library runs in its own process, so a driver that hangs or crashes becomes a finding. No library has to be
    installed. With LIBRARY, only those libraries run. With --host, they look at a simulated host instead of this
    machine.

    \b
    Examples:
      devpolicy doctor
      devpolicy doctor --format json > report.json
      devpolicy doctor --host faulty/nearly-full

    Exit status: 0 all agree; 1 there are findings.
    """
    simulated = None if host in (None, "-") else load_host(ctx, host)
    with ctx.working("asking every library"):
        report = examine(simulated, libraries=libraries or LIBRARIES, timeout=timeout)
    if ctx.json:
        ctx.print_json(to_dict(report))
    else:
        ctx.out.print(view(report, ctx.out.width))
    return 1 if report.findings else 0


def to_dict(report: Report) -> dict[str, object]:
    """Return a report for machines; sizes are bytes."""
    host = report.host
    return {
        "schema": 1,
        "host": {
            "name": host.name,
            "os": host.os,
            "arch": host.arch,
            "memory": host.memory,
            "devices": [{key: getattr(one, key) for key in _DEVICE} for one in host.accelerators],
            "faults": dict(host.faults),
        },
        "variables": dict(report.variables),
        "model_cache": None if report.cache is None else _cache(report.cache),
        "libraries": [library.to_dict() for library in report.libraries],
        "findings": [for_machines(finding) for finding in report.findings],
    }


def _cache(cache: DiskCache) -> dict[str, object]:
    sizes = cache.sizes()
    folder = None if cache.folder is None else str(cache.folder)
    return {"folder": folder, "models": len(sizes), "bytes": sum(sizes), "problem": cache.problem()}


_DEVICE = ("type", "id", "name", "memory", "free", "fault")


def view(report: Report, width: int) -> list[Line]:
    """Return a report for people: what each sees and would use, then the findings."""
    host = report.host
    seen = f"{host.os} {host.arch}, {_machine(host.accelerators)}, {format_size(host.memory)} of RAM"
    kept = [] if report.cache is None else [("model cache", _kept(report.cache))]
    lines = facts([(host.name or "machine", seen), *report.variables, *kept], width=width)
    wrong = "\n".join(finding.message for finding in report.findings)
    rows = [_row(library, wrong) for library in report.libraries]
    head = ["library", "version", "accelerators", "RAM", "uses"]
    lines += ["", *table(head, rows, width=width, styles={0: "device"}), ""]
    if report.findings:
        lines += [*painted(rendered(report.findings)), ""]
    count = len(report.findings)
    ended = "all agree" if not count else f"{count} finding{'' if count == 1 else 's'}"
    return [*lines, [(ended, "warning" if count else "good")]]


def _kept(cache: DiskCache) -> str:
    """Return what is kept of models, and where."""
    if cache.folder is None:
        return f"nothing is kept: {cache.problem()}"
    sizes, problem = cache.sizes(), cache.problem()
    held = f"{len(sizes)} model{'' if len(sizes) == 1 else 's'}, {format_size(sum(sizes))}"
    return f"{cache.folder}, {f'not used: {problem}' if problem else held}"


def _row(library: LibraryReport, wrong: str) -> list[str]:
    """Return the row of one library; accelerate's figures are free memory. `wrong` is the text of the findings."""
    if library.version is None:
        return [library.library, "-", "not installed", "-", "-"]
    if library.fault:
        # NVML has no answer where there is no driver, which is as it should be on a machine without a GPU of NVIDIA.
        return [library.library, library.version, "no answer" if library.fault in wrong else "none", "-", "-"]
    devices = "-" if library.devices is None else _accelerators(library.devices)
    free = " free" if library.amounts == "free" else ""
    ram = "-" if library.ram is None else format_size(library.ram) + free
    return [library.library, library.version, devices, ram, library.choice or "-"]


def _machine(accelerators: Sequence[Accelerator]) -> str:
    return in_short(accelerators) if accelerators else "no accelerator"


def _accelerators(accelerators: Sequence[Accelerator]) -> str:
    return in_short(accelerators) if accelerators else "none"
