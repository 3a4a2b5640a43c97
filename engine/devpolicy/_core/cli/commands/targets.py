"""`devpolicy targets`: the consumers of plans, and what each can be given.

Owns the words for the abilities of a target, and the JSON of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.abilities import Target, target_named, targets
from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.output_formats import forms_of
from devpolicy._core.cli.table import facts, table
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line

_ASSIGNS = {
    "one": "one device",
    "units": "a device for each module",
    "runs": "runs of layers on devices in any order",
    "counts": "a number of layers for each device",
    "budgets": "a budget for each device",
}
_KEEPS = {
    "streams": "brought to the main device for each use",
    "computes": "runs there",
    "maps": "pages of the file, executes on the CPU",
    "budget": "bytes for each device, chosen by the target",
    "experts": "as many experts of each layer, which run there",
}


@click.command(cls=Command, name="targets", short_help="List the consumers of plans, and what each can do.")
@click.argument("target", required=False, shell_complete=complete.targets)
@common()
@pass_context
def command(ctx: CliContext, target: str | None) -> None:
    """List the consumers that a plan can be made for. With TARGET, show what that consumer can do.

    A policy names its consumer with `target`, a command with --target or --to. Packages can add targets, with the entry
    point group `devpolicy.targets`.

    \b
    Examples:
      devpolicy targets
      devpolicy targets llama.cpp
    """
    known = targets()
    if target is None:
        if ctx.json:
            ctx.print_json({"schema": 1, "targets": {name: _as_json(one) for name, one in known.items()}})
            return
        rows = [[one.name, _version(one) or "no", ", ".join(forms_of(one)), one.about] for one in known.values()]
        ctx.out.print(table(["target", "installed", "--to", "is"], rows, width=ctx.out.width, prose=True))
        return
    found = target_named(target)
    if found is None:
        message = f"there is no target `{target}`"
        raise DevPolicyError(Diagnostic("DP202", message, help=did_you_mean(target, known)))
    if ctx.json:
        ctx.print_json({"schema": 1, "target": found.name, **_as_json(found)})
        return
    ctx.out.print(_described(found, ctx.out.width))


def _described(target: Target, width: int) -> list[Line]:
    """Return what a target can be given, a line for each question."""
    abilities = target.abilities
    keeps = [f"{place}: {_KEEPS[what]}" for place, what in abilities.keeps.items()]
    pairs = [
        ("target", f"{target.name}: {target.about}"),
        ("installed", _version(target) or "no"),
        ("executes on", ", ".join(sorted(abilities.types))),
        ("reads", ", ".join(sorted(abilities.reads))),
        ("takes", _ASSIGNS[abilities.assigns]),
        ("keeps", "; ".join(keeps) or "nothing beside its device"),
        ("also takes", ", ".join(sorted(abilities.carries)) or "the device alone"),
        ("--to", ", ".join(forms_of(target))),
    ]
    return facts(pairs, width=width)


def _as_json(target: Target) -> dict[str, Any]:
    abilities = target.abilities
    return {
        "about": target.about,
        "distribution": target.distribution,
        "version": _version(target) or None,
        "types": sorted(abilities.types),
        "reads": sorted(abilities.reads),
        "unit": abilities.unit,
        "assigns": abilities.assigns,
        "cpu": abilities.cpu,
        "keeps": dict(abilities.keeps),
        "carries": sorted(abilities.carries),
        "forms": forms_of(target),
    }


def _version(target: Target) -> str:
    """Return the installed version of a target's library, empty where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    if target.distribution is None:
        return ""
    try:
        return version(target.distribution)
    except PackageNotFoundError:
        return ""
