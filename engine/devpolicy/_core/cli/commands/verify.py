"""`devpolicy verify`: properties over a family of hosts.

Owns the reading of properties from options, and the output of verdicts and counterexamples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete, complete_keys
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.fleet_changes import verify_fleet
from devpolicy._core.cli.fleet_plan import fleet_option
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.host_space import host_space_of, host_space_options, types_of
from devpolicy._core.cli.inputs import (
    NO_MODEL,
    on_every_host,
    overlay_facts,
    overlay_options,
    policy_argument,
    trees_of,
)
from devpolicy._core.cli.report import write_findings
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.properties import OF_A_FLEET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Overrides
    from devpolicy._core.language.properties import Property
    from devpolicy._core.review.host_space import HostSpace
    from devpolicy._core.review.verify import Verdict


@click.command(cls=Command, name="verify", short_help="Check properties of a policy on every host of a family.")
@policy_argument
@click.option(
    "--property",
    "-p",
    "names",
    metavar="PROPERTY",
    multiple=True,
    shell_complete=complete_keys.properties,
    help="What must hold. Repeat it for several properties.",
)
@click.option(
    "--model",
    metavar="MODEL",
    multiple=True,
    shell_complete=complete.models,
    help="The model, also a glob of the catalogue. Default: the models of the policy's tests.",
)
@fleet_option
@click.option("--trees", is_flag=True, help="Draw models at random too, with Hypothesis.")
@overlay_options
@host_space_options
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    metavar="N",
    help="Hosts to draw from a range.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The seed of the draw.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Processes. Default: one for each core.")
@common(formats=("human", "plain", "json", "github"))
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    names: tuple[str, ...],
    model: tuple[str, ...],
    fleet: str | None,
    trees: bool,
    profile: str | None,
    overrides: tuple[str, ...],
    types: str | None,
    accelerators: int,
    memory: str,
    free: str,
    ram: str,
    mixed: bool,
    examples: int,
    seed: int,
    jobs: int | None,
) -> int:
    """Check properties of a policy on every host of a host space.

    For a broken property, show the smallest host that breaks it.

    With a list of --memory, the host space is finite: every host is planned, and a property that holds is proved. With
    a range, hosts are drawn at random with Hypothesis (`devpolicy[testing]`), and a counterexample may be missed.

    --profile and --set apply on each host. The only variable that is read is DEVPOLICY_PROFILE.

    Properties of each plan: always_resolves, placed_or_refused, within_budget, ties_together, blocks_whole, one_type,
    resident, never_on:TERM, same_each_time, runs. Properties of the host space: monotone, every_rule_reachable.

    With --fleet, all nodes are planned together: as they are, with any one of them lost, and with one more of each. A
    property of fleets alone is survives:1.

    \b
    Examples:
      devpolicy verify policy.toml --model llama-3.1-8b
      devpolicy verify policy.toml -p always_resolves -p never_on:cpu
      devpolicy verify policy.toml --memory "4 GiB..96 GiB" --seed 1
      devpolicy verify rag-pipeline --fleet mixed-50 -p survives:1

    Exit status: 0 all hold; 1 one is broken; 2 invalid policy or usage.
    """
    from devpolicy._core.review import verify as proving
    from devpolicy._core.review.outcome import has_model

    loaded = on_every_host(Policy.load(policy), profile, overrides)
    if fleet is not None:
        return verify_fleet(ctx, policy, loaded, fleet, _properties(names, loaded), model)
    if any(one.name in OF_A_FLEET for one in _properties(names, loaded)):
        hint = "`--fleet FLEET` names one"
        raise DevPolicyError([Diagnostic("", "`survives` is a property of a fleet", help=hint)])
    space = host_space_of(types_of(types, _text(loaded)), accelerators, memory, free, ram, mixed=mixed)
    wanted = _properties(names, loaded) or list(proving.DEFAULTS)
    found = trees_of(ctx, [loaded], model, drawn=trees)
    if trees or space.size is None or space.size > proving.MOST_HOSTS:
        from devpolicy._core.review.fuzz import search

        with ctx.working("drawing hosts"):
            verdicts = search(loaded, found, space, wanted, trees=trees, examples=examples, seed=seed)
    else:
        with ctx.progress("planning") as progress:
            verdicts = proving.verify(loaded, found, space, wanted, jobs=jobs, progress=progress)
    if ctx.json:
        ctx.print_json(_as_json(policy, loaded, space, verdicts))
    elif ctx.format == "github":
        write_findings(ctx, [_finding(loaded, verdict) for verdict in verdicts if verdict.status == "broken"])
    else:
        chosen_only = not trees and not has_model(loaded, found)
        ctx.out.print(_view(loaded, space, verdicts, ctx.out.width, chosen_only=chosen_only))
    return 1 if any(verdict.status == "broken" for verdict in verdicts) else 0


def _text(policy: Policy) -> str:
    """Return the text to search for accelerator types: the whole policy without its tests and hosts."""
    return repr((replace(policy.top, prefer_place=None), policy.components, policy.profiles, policy.overrides))


def _properties(names: Sequence[str], policy: Policy) -> list[Property]:
    from devpolicy._core.language.devices import classes_in
    from devpolicy._core.language.properties import parse_property

    return [parse_property(name, family=True, names=classes_in(policy.layer)) for name in names]


def _finding(policy: Policy, verdict: Verdict) -> Diagnostic:
    model = f" for {verdict.model}" if verdict.model else ""
    message = f"`{verdict.property}` does not hold{model}: {verdict.why}"
    notes = tuple(_hosts(verdict, policy.overrides).removesuffix("\n").split("\n")) if verdict.host else ()
    return Diagnostic("DP512", message, policy.top.prefer_place, notes=notes)


def _hosts(verdict: Verdict, asked: Overrides) -> str:
    """Return the hosts of a counterexample as TOML, with the test that fails on them."""
    from devpolicy._core.host.writer import write
    from devpolicy._core.toml.writer import quote

    if verdict.host is None:
        return ""
    parts = [write(verdict.host, under="host.smallest")]
    if verdict.larger is not None:
        parts.append(write(verdict.larger, under="host.larger"))
    else:
        model = "drawn.toml" if verdict.tree else verdict.model
        test = ["[[test]]", f'name   = "{verdict.property}"', 'host   = "smallest"']
        test += [f"model  = {quote(model)}"] if model else []
        test += [f"profile = {quote(asked.profile)}"] if asked.profile else []
        test += [f"# with --set {override}" for override in asked.values]
        parts.append("\n".join([*test, f'always = "{verdict.property}"', ""]))
    return "\n".join(parts)


def _view(
    policy: Policy, space: HostSpace, verdicts: Sequence[Verdict], width: int, *, chosen_only: bool
) -> list[Line]:
    model = [("model", NO_MODEL)] if chosen_only else []
    lines: list[Line] = facts([("hosts", str(space)), *overlay_facts(policy), *model], width=width)
    broken = True
    for verdict in verdicts:
        if broken or verdict.status == "broken":
            lines.append("")
        broken = verdict.status == "broken"
        lines += _verdict_view(verdict, policy.overrides)
    return lines


def _verdict_view(verdict: Verdict, asked: Overrides) -> list[Line]:
    what = f"{verdict.property} for {verdict.model}" if verdict.model else str(verdict.property)
    if verdict.status != "broken":
        count = f"{verdict.hosts:,} host{'s' * (verdict.hosts != 1)}"
        told = f"proved over {count}" if verdict.status == "proved" else f"no counterexample in {count}"
        told += f", and each is refused: {verdict.refused}" if verdict.refused else ""
        return [[("holds   ", "good"), (f"{what}: {told}", "")]]
    lines: list[Line] = [[("broken  ", "error"), (f"{what}: {verdict.why}", "strong")]]
    if verdict.host is not None:
        lines += ["", *_indented(_hosts(verdict, asked))]
    if verdict.tree is not None:
        lines += ["", "  # drawn.toml", *_indented(verdict.tree.to_toml())]
    return lines


def _indented(text: str) -> list[Line]:
    return [f"  {line}".rstrip() for line in text.removesuffix("\n").split("\n")]


def _as_json(policy: str, asked: Policy, space: HostSpace, verdicts: Sequence[Verdict]) -> dict[str, object]:
    return {
        "schema": 1,
        "policy": policy,
        "profile": asked.overrides.profile,
        "set": list(asked.overrides.values),
        "family": {
            "types": list(space.types),
            "accelerators": space.most,
            "memory": list(space.memory),
            "free": list(space.free),
            "ram": list(space.ram),
            "mixed": space.mixed,
            "ranged": space.ranged,
            "hosts": space.size,
        },
        "verdicts": [
            {
                "property": str(verdict.property),
                "model": verdict.model,
                "status": verdict.status,
                "hosts": verdict.hosts,
                "why": verdict.why or None,
                "refused": verdict.refused or None,
                "host": _toml(verdict.host),
                "larger": _toml(verdict.larger),
                "drawn_model": verdict.tree.to_toml() if verdict.tree else None,
            }
            for verdict in verdicts
        ],
    }


def _toml(host: Host | None) -> str | None:
    return None if host is None else host.to_toml()
