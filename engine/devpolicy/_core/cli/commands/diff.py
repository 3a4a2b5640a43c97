"""`devpolicy diff`: where two policies differ.

Owns the options and the output. The comparison is that of `devpolicy._core.review`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.fleet_changes import show_diff
from devpolicy._core.cli.fleet_plan import fleet_option, without
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import NO_MODEL, on_every_host, overlay_facts, overlay_options, trees_of
from devpolicy._core.cli.table import facts, table
from devpolicy._core.errors import DevPolicyError, Diagnostic, HostError
from devpolicy._core.language.policy import Policy
from devpolicy._core.views.collapse_ranges import collapse_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.review.diff import Difference, Differences
    from devpolicy._core.review.hosts import Variant


@click.command(cls=Command, name="diff", short_help="Show where two policies differ, on the smallest host.")
@click.argument("first", metavar="A", shell_complete=complete.policies)
@click.argument("second", metavar="B", shell_complete=complete.policies)
@click.option(
    "--hosts",
    "--host",
    metavar="HOST",
    multiple=True,
    shell_complete=complete.hosts,
    help="A host or a glob; repeat it for several. Default: the catalogue without its broken hosts.",
)
@click.option(
    "--models",
    "--model",
    metavar="MODEL",
    multiple=True,
    shell_complete=complete.models,
    help="A model or a glob; repeat it for several. Default: those of the policies' tests.",
)
@fleet_option
@click.option("--new-fleet", metavar="FLEET", shell_complete=complete.fleets, help="The fleet that B is planned for.")
@click.option("--lost", metavar="NODE", multiple=True, help="A node that is missing in B. Repeat it for several nodes.")
@overlay_options
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Processes. Default: one for each core.")
@common()
@pass_context
def command(
    ctx: CliContext,
    first: str,
    second: str,
    hosts: tuple[str, ...],
    models: tuple[str, ...],
    fleet: str | None,
    new_fleet: str | None,
    lost: tuple[str, ...],
    profile: str | None,
    overrides: tuple[str, ...],
    jobs: int | None,
) -> int:
    """Plan two policies for models on hosts, and show where they differ.

    A difference is a module that is stored or executes elsewhere, a refusal, or another way of loading. The smallest
    host that shows a difference is printed as TOML. The reasons are not compared: `why` shows them.

    --profile and --set apply to both policies. The only variable that is read is DEVPOLICY_PROFILE.

    \b
    Examples:
      devpolicy diff old.toml new.toml
      devpolicy diff old.toml new.toml --models "llama-*" --hosts "*24gb"
      devpolicy diff policy.toml policy.toml --fleet mixed-50 --lost l4-0

    With --fleet, show which components must move to get from the plan of A to a plan of B: the one with the
    fewest moves.

    Exit status: 0 they never differ; 1 they differ; 2 invalid policy or usage.
    """
    if fleet is not None:
        without(fleet, hosts=hosts, jobs=jobs)
        return show_diff(
            ctx, first, second, fleet, models, other=new_fleet, lost=lost, profile=profile, overrides=overrides
        )
    if new_fleet is not None or lost:
        raise DevPolicyError(
            [Diagnostic("", "`--new-fleet` and `--lost` need `--fleet`", help="write `--fleet FLEET`")]
        )

    from devpolicy._core.review.diff import diff
    from devpolicy._core.review.outcome import has_model

    loaded = Policy.load(first), Policy.load(second)
    policies = on_every_host(loaded[0], profile, overrides), on_every_host(loaded[1], profile, overrides)
    trees = trees_of(ctx, policies, models)
    machines = _hosts(policies, hosts)
    with ctx.progress("comparing") as progress:
        found = diff(*policies, trees, machines, jobs=jobs, progress=progress)
    if ctx.json:
        ctx.print_json(_as_json(first, second, policies[0], found))
    else:
        placed = any(has_model(policy, trees) for policy in policies)
        ctx.out.print(_view(first, second, policies[0], found, ctx.out.width, chosen_only=not placed))
    return 1 if found.found else 0


def _hosts(policies: Sequence[Policy], given: Sequence[str]) -> list[Variant]:
    from devpolicy._core.host.catalogue import catalogue
    from devpolicy._core.language.expectations import Word
    from devpolicy._core.review.hosts import find_hosts

    own = {name: host for policy in policies for name, host in policy.hosts}
    names = given or [*own, *(name for name in catalogue() if not name.startswith("faulty/"))]
    findings: list[Diagnostic] = []
    found = find_hosts([Word(name) for name in names], own, None, findings)
    if findings:
        raise HostError(findings)
    return found


def _view(first: str, second: str, asked: Policy, found: Differences, width: int, *, chosen_only: bool) -> list[Line]:
    model = [("model", NO_MODEL)] if chosen_only else []
    lines: list[Line] = [*facts([("a", first), ("b", second), *overlay_facts(asked), *model], width=width), ""]
    if found.found:
        rows = [[one.model or "-", one.host, _changes(one)] for one in found.found]
        lines += [*table(["model", "host", "a -> b"], rows, width=width, prose=True), ""]
    if found.smallest is not None and found.shown is not None:
        lines += [[("the smallest host that shows it", "strong")], *_smallest(found), ""]
    same = found.compared - len(found.found)
    summary = f"{len(found.found)} of {found.compared} differ, {same} are the same"
    return [*lines, [(summary, "warning" if found.found else "good")]]


def _smallest(found: Differences) -> list[Line]:
    from devpolicy._core.host.writer import write

    assert found.smallest is not None and found.shown is not None
    shown: list[Line] = [
        f"  {line}".rstrip() for line in write(found.smallest, under="host.smallest").removesuffix("\n").split("\n")
    ]
    model = f"{found.shown.model}: " if found.shown.model else ""
    return [*shown, "", f"  {model}{_changes(found.shown)}"]


def _changes(one: Difference) -> str:
    from devpolicy._core.review.plan_diff import format_place

    if one.refused[0] or one.refused[1]:
        texts = [f"refused with {text.partition(':')[0]}" if text else "placed" for text in one.refused]
        return " -> ".join(texts)
    moves: dict[str, list[str]] = {}
    for row in collapse_ranges(one.moved.items()):
        moves.setdefault(f"{format_place(row.key[0])} -> {format_place(row.key[1])}", []).append(row.pattern or "all")
    rows = [f"{', '.join(patterns)}: {move}" for move, patterns in moves.items()]
    return "; ".join([*rows, *([one.other] if one.other else [])])


def _as_json(first: str, second: str, asked: Policy, found: Differences) -> dict[str, object]:
    return {
        "schema": 1,
        "a": first,
        "b": second,
        "profile": asked.overrides.profile,
        "set": list(asked.overrides.values),
        "compared": found.compared,
        "differences": [_difference_json(one) for one in found.found],
        "smallest": None
        if found.smallest is None or found.shown is None
        else {"host": found.smallest.to_toml(), **_difference_json(found.shown)},
    }


def _difference_json(one: Difference) -> dict[str, object]:
    def place(where: tuple[str, str] | None) -> dict[str, str] | None:
        return None if where is None else {"device": where[0], "runs_on": where[1]}

    return {
        "model": one.model,
        "on": one.host,
        "moved": {path: {"a": place(was), "b": place(now)} for path, (was, now) in one.moved.items()},
        "other": one.other or None,
        "refused": {"a": one.refused[0] or None, "b": one.refused[1] or None},
    }
