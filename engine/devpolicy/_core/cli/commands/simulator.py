"""`devpolicy simulator`: build what the deep depths of `simulate_host` need, and show whether it is built.

Owns the output. The compiler and the cache are those of `devpolicy._core.simulator`.
"""

from __future__ import annotations

from typing import Any

import click

from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Group
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import SimulationDepthError


@click.group(name="simulator", cls=Group, short_help="Build what simulated devices need to hold tensors.")
def command() -> None:
    """Build the simulator of devices that hold tensors, or show whether it is built.

    `simulate_host(host, depth="tensors")` and `depth="phantom"` need it. You compile it once for each version of torch;
    a test run never does.
    """


@command.command(name="build", short_help="Compile it for the torch of this environment.")
@click.option("--again", is_flag=True, help="Compile again, even if it is built.")
@click.option("--if-possible", is_flag=True, help="If it cannot be built, say why and exit with 0.")
@common()
@pass_context
def build_simulator(ctx: CliContext, again: bool, if_possible: bool) -> None:
    """Compile the simulator for the torch of this environment, into the user's cache.

    It needs a CPU build of torch and a C++ compiler (the variable CXX, else c++, g++ or clang++), and takes half a
    minute.

    \b
    Examples:
      devpolicy simulator build
      devpolicy simulator build --if-possible
    """
    from devpolicy._core.simulator import build, simulator

    try:
        found = simulator()
        if not ctx.json and (again or not found.built):
            ctx.err.print(f"compiling the simulator for torch {found.torch.version}; this takes half a minute")
        built = build(again=again)
    except SimulationDepthError as refused:
        if not if_possible:
            raise
        _tell(ctx, {"built": False, "why": refused.diagnostics[0].message})
        return
    _tell(
        ctx,
        {
            "built": True,
            "torch": built.simulator.torch.version,
            "library": str(built.simulator.library),
            "compiler": built.compiler or "was there already",
        },
    )


@command.command(name="info", short_help="Show whether it is built, or can be.")
@common()
@pass_context
def simulator_info(ctx: CliContext) -> None:
    """Show whether the simulator is built for this environment, and if not, whether it can be built.

    \b
    Example:
      devpolicy simulator info
    """
    from devpolicy._core.simulator import TESTED, simulator, unfit
    from devpolicy._core.simulator.building import find_compiler
    from devpolicy._core.simulator.versions import installed

    torch = installed()
    reason = unfit()
    found = simulator() if reason is None else None
    _tell(
        ctx,
        {
            "built": found is not None and found.built,
            "torch": None if torch is None else torch.version,
            "library": None if found is None else str(found.library),
            "compiler": find_compiler(),
            "tested": ", ".join(TESTED),
            "why": None if reason is None else reason.why,
            "help": None if reason is None else reason.help,
        },
    )


def _tell(ctx: CliContext, told: dict[str, Any]) -> None:
    if ctx.json:
        ctx.print_json({"schema": 1, "simulator": told})
        return
    shown = {**told, "built": "yes" if told["built"] else "no"}
    names = {"why": "why not", "help": "a way out", "tested": "tested with torch"}
    pairs = [(names.get(name, name), str(value)) for name, value in shown.items() if value is not None]
    ctx.out.print(facts(pairs, width=ctx.out.width))
