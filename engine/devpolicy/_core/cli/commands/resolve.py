"""`devpolicy resolve`: the device choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli.forms import FORMS, literal
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
from devpolicy._core.cli.report import painted, rendered, tell_lint
from devpolicy._core.cli.session import PATIENCE, Session, common, pass_session
from devpolicy._core.cli.table import facts, table
from devpolicy._core.language.policy import Policy
from devpolicy._core.verbs.joint import JointPlanner, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from devpolicy._core.cli.screen import Line
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.errors import Diagnostic


@click.command(name="resolve")
@policy_argument
@host_option
@component_option
@overlay_options
@model_option(required=False)
@click.option("--to", type=click.Choice(list(FORMS)), help="Print only what the consumer takes, and decide for it.")
@common()
@pass_session
def command(
    session: Session,
    policy: str,
    host: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    model: str | None,
    to: str | None,
) -> None:
    """Show the device that a policy chooses on a host.

    Without a model it is the choice that `prefer` makes, and rules about modules are not applied, which is said.
    With one it is the whole plan's device. A component has the model that the policy names for it, beside those that
    are written before it.

    \b
    Examples:
      devpolicy resolve prefer-accelerator --host 1x24gb
      devpolicy resolve policy.toml --to torch
      devpolicy resolve rag-pipeline --component ranker --host 1x24gb
      devpolicy resolve policy.toml --model llama-3.1-8b --to haystack
    """
    loaded = Policy.load(policy)
    machine = load_host(session, host, loaded)
    loaded = on_host(loaded, machine, profile, overrides)
    check_component(loaded, component)
    tree = None if model is None else load_model(session, model)
    request = Request(loaded, component, tree, target=FORMS[to].target if to else None)
    warnings: Iterable[Diagnostic]
    if request.has_size:
        with session.working("planning", patience=PATIENCE):
            plan = JointPlanner(machine).place(request).plan
        device, warnings = plan.device, plan.warnings
        terms = plan.trace.terms if plan.trace else ()
    else:
        from devpolicy._core.placement.choice import choose

        choice = choose(request.resolved, machine, target=request.target)
        device, warnings, terms = choice.device, choice.warnings, choice.terms
    if to is not None:
        form = FORMS[to].of_device(device)
        if session.json:
            session.print_json(form)
        else:
            session.out.print(literal(form))
    elif session.json:
        session.print_json(
            {
                "schema": 1,
                "component": component,
                "device": device.to_dict(),
                "prefer": [{"term": term, "outcome": outcome} for term, outcome in terms],
            }
        )
    else:
        session.out.print(_view(device, terms, session.out.width))
    if warnings:
        session.err.print(painted(rendered(warnings)))
    tell_lint(session, loaded)


def _view(device: ComponentDevice, terms: Sequence[tuple[str, str]], width: int) -> list[Line]:
    from devpolicy._core.cli.fold import fold

    form = device.to_dict()
    lines: list[Line] = []
    if "device" in form:
        lines += facts([("device", form["device"])], width=width)
    else:
        rows = fold(form["device_map"].items())
        lines += table(
            ["module", "device"], [[row.pattern, row.key] for row in rows], width=width, styles={1: "device"}
        )
    return [*lines, "", *preferences(terms, width)]


def preferences(terms: Iterable[tuple[str, str]], width: int) -> list[Line]:
    """Return what became of each term of `prefer`, in order."""
    rows = [[term, outcome] for term, outcome in terms]
    return table(["prefer", "outcome"], rows, width=width, styles={0: "device"})
