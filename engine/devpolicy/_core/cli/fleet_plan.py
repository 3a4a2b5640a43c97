"""The options of commands on a fleet, and `devpolicy plan --fleet`.

Every decision is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import PATIENCE, CliContext
from devpolicy._core.cli.fleet_view import titled, view
from devpolicy._core.cli.inputs import load_model, named_models, on_every_host
from devpolicy._core.cli.output_formats import form_named, written
from devpolicy._core.cli.pictures import check_picture, drawn
from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.fleet.changes import moves
from devpolicy._core.fleet.plan import FleetPlan
from devpolicy._core.fleet.planner import plan_fleet
from devpolicy._core.fleet.ray_forms import to_ray, to_serve
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy
from devpolicy._core.text import json_text

if TYPE_CHECKING:
    from devpolicy._core.model.tree import ModelTree

OF_FLEETS: dict[str, Callable[[FleetPlan, Fleet], Any]] = {"ray": to_ray, "serve": to_serve}
"""Forms of a fleet's plan as a whole."""

fleet_option = click.option(
    "--fleet",
    metavar="FLEET",
    shell_complete=complete.fleets,
    help="Plan for all nodes of a fleet: a name of the catalogue, a fleet file, or a folder of host files.",
)

Models = Mapping[str | None, "ModelTree"]


def without(fleet: str | None, **others: object) -> None:
    """Raise `DevPolicyError` where an option is given that does not go along with `--fleet`."""
    given = [name for name, value in others.items() if value] if fleet is not None else []
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise DevPolicyError([Diagnostic("", f"`{option}` and `--fleet` do not go together", help="leave one out")])


def models_given(ctx: CliContext, model: Sequence[str], architecture: str | None = None) -> Models:
    """Return the models of `--model` options by component."""
    return {name: load_model(ctx, text, architecture) for name, text in named_models(model).items()}


def made(ctx: CliContext, policy: Policy, models: Models, fleet: Fleet, target: str | None, **more: Any) -> FleetPlan:
    """Return the plan of a fleet."""
    named = [entry.name for entry in policy.components if not entry.is_glob]
    if None in models and named:
        message = "the policy has components, and the model is for none of them"
        raise DevPolicyError([Diagnostic("", message, help=f"name one: `--model {named[0]}=MODEL`")])
    with ctx.working("planning", patience=PATIENCE):
        return plan_fleet(policy, models, fleet, target=target, **more)


def show_plan(
    ctx: CliContext,
    policy: str,
    fleet: str,
    model: Sequence[str],
    *,
    profile: str | None,
    overrides: Sequence[str],
    architecture: str | None,
    target: str | None,
    component: str | None,
    running: str | None,
    to: str | None,
    locked: str | None,
    output: str | None,
) -> None:
    """`devpolicy plan --fleet`."""
    written = on_every_host(Policy.load(policy), profile, overrides)
    if to in OF_FLEETS and component is not None:
        message = f"`--to {to}` is of all components, since what shares a device is reserved together"
        raise DevPolicyError([Diagnostic("", message, help="leave out `--component`")])
    nodes = Fleet.load(fleet)
    target = target or (None if to is None or to in OF_FLEETS else form_named(to).target)
    before = None if running is None else FleetPlan.load(running)
    models = models_given(ctx, model, architecture)
    if to == "vllm" and (component is not None or None in models):
        spanned = _over_nodes(ctx, written, models, nodes, component)
        if spanned is not None:
            _emit(ctx, json_text(spanned), output, [policy, fleet])
            return
    plan = made(ctx, written, models, nodes, target, before=before)
    if plan.warnings:
        ctx.err.print(painted(rendered(plan.warnings)))
    if locked is not None:
        _compare(locked, plan)
    shown = plan if component is None else only(plan, component)
    changed = None if before is None else moves(before, plan)
    text: str | bytes | None
    if ctx.format in ("svg", "png"):
        check_picture(ctx, to, output)
        text = drawn(ctx, titled(shown, nodes))
    elif to is not None:
        text = _written(to, shown, nodes, as_json=ctx.json)
    elif ctx.json:
        told = {} if changed is None else {"moves": [one.to_dict() for one in changed]}
        text = json_text({**shown.to_dict(), **told})
    else:
        text = None
    if output is not None or text is not None:
        _emit(ctx, plan.to_json() if text is None else text, output, [policy, fleet, *filter(None, (running, locked))])
    else:
        ctx.out.print(view(shown, written, nodes, changed, ctx.out.width, locked=locked))


def _emit(ctx: CliContext, text: str | bytes, output: str | None, inputs: Sequence[str]) -> None:
    """Write text to a file, whole or not at all, else to standard output."""
    if output is None:
        ctx.out.write(str(text))
        return
    from devpolicy._core.cli.files import write_whole

    write_whole(output, text, inputs=inputs)


def _over_nodes(
    ctx: CliContext, policy: Policy, models: Models, fleet: Fleet, component: str | None
) -> dict[str, Any] | None:
    """Return how vLLM serves one model over several nodes, `None` where one node holds it."""
    from devpolicy._core.fleet.spanning import vllm_over_nodes

    model = models.get(component)
    with ctx.working("planning", patience=PATIENCE):
        told = vllm_over_nodes(policy, model, fleet, component=component)
    places = told["placement_group"]["bundle_label_selector"]
    return told if any(one != places[0] for one in places) else None


def only(plan: FleetPlan, component: str) -> FleetPlan:
    """Return the plan of one component, with all of its replicas."""
    kept = {
        name: one
        for name, one in plan.components.items()
        if name == component or (name.rpartition("/")[0] == component and name.rpartition("/")[2].isdecimal())
    }
    if not kept:
        plan.check_component(component)
    return FleetPlan(kept, plan.warnings)


def _compare(path: str, plan: FleetPlan) -> None:
    """Raise where the plan is not the one in a file, with what moved."""
    from devpolicy._core.cli.lock import LockedPlanError

    before = FleetPlan.load(path)
    if before.digest == plan.digest:
        return
    found = moves(before, plan)
    notes = [str(one) for one in found] or ["no component moved: a plan is written otherwise"]
    hint = f"where this is wanted, write it again: `--format json --output {path}`"
    message = f"the plan is not the one in `{path}`"
    raise LockedPlanError(
        Diagnostic("DP505", message, notes=tuple(notes[:20]), help=hint), [one.to_dict() for one in found]
    )


def _written(to: str, plan: FleetPlan, fleet: Fleet, *, as_json: bool) -> str:
    """Return what a consumer takes of each component, on its node, or what Ray takes of all."""
    if to in OF_FLEETS:
        return json_text(OF_FLEETS[to](plan, fleet))
    form = form_named(to)
    plans = {
        None if name == "model" and one.plan.component is None else name: one.plan
        for name, one in plan.components.items()
    }
    hosts = {name: fleet[one.node] for name, one in zip(plans, plan.components.values(), strict=True)}
    return written(form, plans, hosts, as_json=as_json)
