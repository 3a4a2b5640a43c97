"""`devpolicy resolve`: the device choice.

Owns the output for one component, and for all components of a saved pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import pipeline_view
from devpolicy._core.cli.context import PATIENCE, CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    component_option,
    host_option,
    load_host,
    load_model,
    model_option,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.output_formats import DEVICE_FORMATS, OUTPUT_FORMATS, literal
from devpolicy._core.cli.pipeline_view import check_alone, pipeline_option
from devpolicy._core.cli.report import painted, print_lint, rendered
from devpolicy._core.cli.table import facts, table
from devpolicy._core.language.policy import Policy
from devpolicy._core.verbs.joint import JointPlanner, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.errors import Diagnostic
    from devpolicy._core.host import Host


@click.command(cls=Command, name="resolve")
@policy_argument
@host_option
@component_option
@overlay_options
@model_option(required=False)
@pipeline_option
@click.option("--to", type=click.Choice(DEVICE_FORMATS), help="Print only what the consumer takes, and choose for it.")
@common()
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    host: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    model: str | None,
    pipeline: str | None,
    to: str | None,
) -> None:
    """Show the device that a policy chooses on a host.

    With a model, these are the devices of the whole plan. Without a model, the choice follows `prefer` alone; the
    command warns about the rules that it ignores. For a component, the model is the one that the policy names, planned
    beside the components before it.

    With --pipeline, show every component of a saved Haystack pipeline that takes a device, also components inside
    others (`agent.chat_generator`): its device, what in the policy decides it, and the device in the file.

    \b
    Examples:
      devpolicy resolve prefer-accelerator --host 1x24gb
      devpolicy resolve policy.toml --to torch
      devpolicy resolve rag-pipeline --component ranker --host 1x24gb
      devpolicy resolve policy.toml --model llama-3.1-8b --to haystack
      devpolicy resolve policy.toml --pipeline rag.yaml --host 2x24gb
    """
    check_alone(pipeline, component=component, model=model, to=to)
    loaded = Policy.load(policy)
    machine = load_host(ctx, host, loaded)
    loaded = on_host(loaded, machine, profile, overrides)
    if pipeline is not None:
        _pipeline(ctx, loaded, machine, pipeline)
        return
    check_component(loaded, component)
    tree = None if model is None else load_model(ctx, model)
    request = Request(loaded, component, tree, target=OUTPUT_FORMATS[to].target if to else None)
    warnings: Iterable[Diagnostic]
    if request.has_size:
        with ctx.working("planning", patience=PATIENCE):
            plan = JointPlanner(machine).place(request).plan
        device, warnings = plan.component_device, plan.warnings
        terms = plan.trace.terms if plan.trace else ()
    else:
        from devpolicy._core.placement.choice import choose

        choice = choose(request.resolved, machine, target=request.target)
        device, warnings, terms = choice.device, choice.warnings, choice.terms
    if to is not None:
        of_device = OUTPUT_FORMATS[to].of_device
        form = of_device(device) if of_device else None
        if ctx.json:
            ctx.print_json(form)
        else:
            ctx.out.print(literal(form))
    elif ctx.json:
        ctx.print_json(
            {
                "schema": 1,
                "component": component,
                "device": device.to_dict(),
                "prefer": [{"term": term, "outcome": outcome} for term, outcome in terms],
            }
        )
    else:
        ctx.out.print(_view(device, terms, ctx.out.width))
    if warnings:
        ctx.err.print(painted(rendered(warnings)))
    print_lint(ctx, loaded)


def _pipeline(ctx: CliContext, policy: Policy, host: Host, path: str) -> None:
    """Show what a policy decides for each component of a saved pipeline."""
    from devpolicy._core.targets.haystack_components.survey import survey

    found = survey(policy, path, host)
    if ctx.json:
        ctx.print_json(pipeline_view.to_json(found))
    else:
        ctx.out.print(pipeline_view.lines(found, ctx.out.width))
    told = pipeline_view.warnings(found)
    if told:
        ctx.err.print(painted(rendered(told)))
    print_lint(ctx, policy)


def _view(device: ComponentDevice, terms: Sequence[tuple[str, str]], width: int) -> list[Line]:
    from devpolicy._core.views.collapse_ranges import collapse_ranges

    form = device.to_dict()
    lines: list[Line] = []
    if "device" in form:
        lines += facts([("device", form["device"])], width=width)
    else:
        rows = collapse_ranges(form["device_map"].items())
        lines += table(
            ["module", "device"], [[row.pattern, row.key] for row in rows], width=width, styles={1: "device"}
        )
    return [*lines, "", *preferences(terms, width)]


def preferences(terms: Iterable[tuple[str, str]], width: int) -> list[Line]:
    """Return what became of each term of `prefer`, in order."""
    rows = [[term, outcome] for term, outcome in terms]
    return table(["prefer", "outcome"], rows, width=width, styles={0: "device"})
