"""`devpolicy why`: the trace of one module.

Owns the options and the output. The trace itself is in `traced`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.commands.resolve import preferences
from devpolicy._core.cli.context import PATIENCE, CliContext, common, pass_context
from devpolicy._core.cli.fleet_plan import fleet_option, without
from devpolicy._core.cli.fleet_why import why as why_on_fleet
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    check_model,
    component_option,
    host_option,
    load_host,
    load_model,
    model_option,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.output_formats import TargetName
from devpolicy._core.cli.plan_view import granted_lines
from devpolicy._core.cli.traced import check_module, traced, units_of
from devpolicy._core.language.policy import Policy
from devpolicy._core.sizes import format_size
from devpolicy._core.verbs.joint import JointPlanner, Request

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.placement.plan import Placement


@click.command(cls=Command, name="why", short_help="Show why a module is on its device.")
@policy_argument
@click.argument("module", shell_complete=complete.modules)
@model_option(required=False)
@host_option
@fleet_option
@component_option
@overlay_options
@click.option("--target", type=TargetName(), help="The consumer to plan for: `devpolicy targets` lists them.")
@common()
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    module: str,
    model: str | None,
    host: str | None,
    fleet: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    target: str | None,
) -> None:
    """Show why a module is on its device: the rule that decided, and the outcome of each preference.

    MODULE is a module's path. For a container, all modules inside it are shown. `""` is the whole model. Without
    --model, the model is the one that the policy names for the component.

    \b
    Examples:
      devpolicy why offload-lm-head lm_head --model llama-3.1-70b --host 4x80gb
      devpolicy why policy.toml model.layers.3 --model llama-3.1-8b
      devpolicy why rag-pipeline lm_head --component generator
      devpolicy why rag-pipeline "" --component embedder --fleet mixed-50
    """
    if fleet is not None:
        without(fleet, host=host)
        asked = {"component": component, "profile": profile, "target": target}
        why_on_fleet(ctx, policy, fleet, module, model, overrides=overrides, **asked)
        return
    loaded = Policy.load(policy)
    machine = load_host(ctx, host, loaded)
    loaded = on_host(loaded, machine, profile, overrides)
    check_component(loaded, component)
    check_model(loaded, component, given=model is not None)
    request = Request(loaded, component, None if model is None else load_model(ctx, model), target=target)
    with ctx.working("planning", patience=PATIENCE):
        placed = JointPlanner(machine).place(request)
    plan = placed.plan
    if placed.tree is not None:
        check_module(module, placed.tree)
    if ctx.json:
        ctx.print_json({"schema": 1, "component": component, **traced(plan, module)})
        return
    unit_paths = units_of(plan, module)
    terms = plan.trace.terms if plan.trace else ()
    notes = {path: plan.trace.of(path) for path in unit_paths} if plan.trace else {}
    lines: list[Line] = _decisions(module, unit_paths, notes, loaded)
    ctx.out.print([*lines, "", *preferences(terms, ctx.out.width), *granted_lines(plan, width=ctx.out.width)])


def _decisions(module: str, units: dict[str, Placement], notes: dict[str, list[str]], policy: Policy) -> list[Line]:
    from devpolicy._core.views.collapse_ranges import collapse_ranges

    rules = [*policy.rules, *(rule for entry in policy.components for rule in entry.rules)]
    places = {rule.name: rule.place for rule in rules if rule.place}
    if not units:
        return [f"{module} holds no tensors, so it is not placed"]
    lines: list[Line] = []
    rows = collapse_ranges((path, (unit, *notes.get(path, []))) for path, unit in _alike(units).items())
    for row in rows:
        unit = units[row.paths[0]]
        size = format_size(sum(units[path].bytes for path in row.paths))
        where = f"stored on {unit.device}, executes on {unit.runs_on}"
        where = f"on {unit.all_on}" if unit.device == unit.runs_on else where
        lines.append([(row.pattern or "the whole model", "strong"), (f": {where} ({size})", "")])
        lines.append([("  decided by ", "dim"), (unit.rule, "device"), (f": {unit.reason}", "")])
        if unit.rule in places:
            place = places[unit.rule]
            lines.append([("  written at ", "dim"), (f"{place}: {place.text.strip()}" if place else "", "")])
        lines += [f"  {note}" for note in notes.get(row.paths[0], [])]
    if module not in units and len(units) == 1 and next(iter(units)) in ("", *_above(module)):
        lines.insert(0, f"{module} is a part of {next(iter(units)) or 'the model'}, which is placed as a whole")
    return lines


def _alike(units: dict[str, Placement]) -> dict[str, tuple[str, ...]]:
    """What must agree for units to share a row: everything but their sizes."""
    return {path: (str(unit.device), str(unit.runs_on), unit.rule, unit.reason) for path, unit in units.items()}


def _above(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
