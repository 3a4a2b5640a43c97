"""`devpolicy report`: verdicts on models, quantizations and hosts on one page.

Owns which models, schemes and hosts are in the matrix. The page is made by `devpolicy._core.views`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

import devpolicy
from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.files import write_whole
from devpolicy._core.cli.fleet_plan import fleet_option, without
from devpolicy._core.cli.fleet_report import write_report
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    check_model,
    component_option,
    files_of,
    load_host,
    load_model,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.named_sets import hosts_like, listed, models_like, own_models
from devpolicy._core.cli.output_formats import TargetName
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.language.policy import Policy
from devpolicy._core.loading.quantizations import NONE, QUANTIZATIONS
from devpolicy._core.model.tree import ModelTree

F = TypeVar("F", bound=Callable[..., Any])

_REFUSED = 3
_SCHEMES = (NONE, "int8", "nf4")
"""What is asked where neither the command nor the policy names schemes: in full, in eight bits and in four."""


@click.command(cls=Command, name="report", short_help="Write a page that shows which models run on which hosts.")
@policy_argument
@click.option(
    "--models",
    metavar="MODEL,MODEL",
    multiple=True,
    shell_complete=complete.models,
    help="Models as in `devpolicy plan`, also globs of the catalogue. Default: those of the component.",
)
@click.option(
    "--hosts",
    metavar="HOST,HOST",
    multiple=True,
    shell_complete=complete.hosts,
    help="Hosts of the catalogue, also globs, host files, or `-` for this machine. Default: this machine.",
)
@fleet_option
@click.option(
    "--quantizations",
    metavar="SCHEME,SCHEME",
    multiple=True,
    help="Quantization schemes. Default: those of the policy, else none, int8 and nf4.",
)
@click.option("-o", "--output", metavar="FILE", required=True, help="The HTML file, written whole or not at all.")
@component_option
@overlay_options
@click.option("--target", type=TargetName(), help="The consumer to plan for. Default: hf.")
@common(formats=())
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    models: tuple[str, ...],
    hosts: tuple[str, ...],
    fleet: str | None,
    quantizations: tuple[str, ...],
    output: str,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    target: str | None,
) -> int:
    """Write one HTML file with a verdict for each model in each quantization on each host.

    With --fleet, show the plan of a fleet: its nodes, the components on each node, and the reasons. If the policy names
    no components, give models as NAME=MODEL.

    A cell shows how full the fullest device is, and the longest context. Select a cell to see its placement, its
    predicted time and the reasons. The file needs no network. The verdicts are those of `devpolicy fit`.

    \b
    Examples:
      devpolicy report prefer-accelerator --models 'qwen3-*' -o report.html
      devpolicy report policy.toml --component llm --hosts 'mac-*' -o r.html
      devpolicy report rag-pipeline --fleet mixed-50 -o fleet.html

    Exit status: 0 something fits; 2 invalid policy or usage; 3 nothing fits.
    """
    from devpolicy._core.views.matrix import CPU, FITS, MOVED, REFUSED, matrix
    from devpolicy._core.views.report import About, report

    written = Policy.load(policy)
    if fleet is not None:
        without(fleet, hosts=hosts, quantizations=quantizations)
        asked = {"component": component, "profile": profile, "target": target}
        write_report(ctx, written, fleet, listed(models), output, overrides=overrides, **asked)
        return 0
    check_component(written, component)
    check_model(written, component, given=bool(listed(models)), option="--models")
    machines = [load_host(ctx, name, written) for name in hosts_like(listed(hosts))]
    policies = [(host, on_host(written, host, profile, overrides)) for host in machines]
    trees = _apart([(name, load_model(ctx, name)) for name in models_like(listed(models))])
    resolved = [(host, loaded.for_component(component)) for host, loaded in policies]
    schemes = _schemes(quantizations) or resolved[0][1].loading.quantization or _SCHEMES
    with ctx.progress("planning") as progress:
        found = matrix(
            resolved,
            trees or own_models(policies[0][1], component, "--models"),
            schemes,
            target=target,
            progress=progress,
        )
    about = About(written.source, component, target, devpolicy.__version__)
    read = [*files_of(written), policy, *listed(models), *listed(hosts)]
    write_whole(output, report(found, machines, about), inputs=read)
    count = Counter(cell.verdict for cell in found)
    words = {FITS: "fit", MOVED: "fit with a part kept elsewhere", CPU: "execute on the CPU", REFUSED: "do not fit"}
    told = ", ".join(f"{count[verdict]:,} {word}" for verdict, word in words.items() if count[verdict])
    pairs = [
        ("report", f"{len(found):,} verdict{'s' * (len(found) != 1)}: {told}"),
        ("next", f"open {output} in a browser"),
    ]
    ctx.out.print(facts(pairs, width=ctx.out.width))
    return _REFUSED if count[REFUSED] == len(found) else 0


def _schemes(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the schemes that are given. Raises `DevPolicyError` for one that is none."""
    from devpolicy._core.toml.tables import did_you_mean

    schemes = tuple(dict.fromkeys(listed(given)))
    wrong = next((one for one in schemes if one not in QUANTIZATIONS), None)
    if wrong is not None:
        help_ = did_you_mean(wrong, QUANTIZATIONS)
        raise DevPolicyError(Diagnostic("", f"there is no quantization `{wrong}`", help=help_))
    return schemes


def _apart(trees: list[tuple[str, ModelTree]]) -> list[ModelTree]:
    """Return the models; those that have one name (of their class, say) are named as they were given."""
    uses = Counter(tree.name for _, tree in trees)
    return [tree if tree.name and uses[tree.name] == 1 else replace(tree, name=given) for given, tree in trees]
