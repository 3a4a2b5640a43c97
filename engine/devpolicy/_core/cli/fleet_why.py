"""`devpolicy why --fleet`: why a component is on its node, and a module on its device.

Owns the output. The reasons come with the fleet's plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from devpolicy._core.cli.context import CliContext
from devpolicy._core.cli.fleet_plan import made, only
from devpolicy._core.cli.inputs import load_model, on_every_host
from devpolicy._core.cli.traced import check_module, traced
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy


def why(
    ctx: CliContext,
    policy: str,
    fleet: str,
    module: str,
    model: str | None,
    *,
    component: str | None,
    profile: str | None,
    overrides: Sequence[str],
    target: str | None,
) -> None:
    """`devpolicy why --fleet`."""
    written = on_every_host(Policy.load(policy), profile, overrides)
    models = {} if model is None else {component: load_model(ctx, model)}
    plan = made(ctx, written, models, Fleet.load(fleet), target)
    names = list(only(plan, component).components) if component is not None else list(plan.components)
    if component is None and len(names) > 1:
        hint = f"name one: `--component {names[0]}`"
        raise DevPolicyError([Diagnostic("", "the plan has several components", help=hint)])
    name = names[0]
    one = plan.components[name]
    if one.recipe is not None and one.recipe.tree is not None:
        check_module(module, one.recipe.tree)
    if ctx.json:
        elsewhere = [{"node": node, "reason": reason} for node, reason in one.elsewhere]
        ctx.print_json(
            {"schema": 1, "component": name, "node": one.node, "elsewhere": elsewhere, **traced(one.plan, module)}
        )
        return
    ctx.out.print(plan.why(name, module or None))
