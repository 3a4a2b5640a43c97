"""The commands on a fleet: what `--fleet` means for `plan`, `why`, `diff` and `verify`, and how it is shown.

Owns the human form of a fleet's plan and of its changes. Every decision is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import PATIENCE, CliContext, to_json
from devpolicy._core.cli.inputs import load_model, named_models, on_every_host
from devpolicy._core.cli.memory_bars import gib
from devpolicy._core.cli.output_formats import form_named, written
from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.cli.table import facts, table
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.fleet.changes import moves
from devpolicy._core.fleet.plan import FleetPlan
from devpolicy._core.fleet.planner import plan_fleet
from devpolicy._core.fleet.ray_forms import to_ray, to_serve
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.properties import OF_A_FAMILY, Property
from devpolicy._core.views.names import device_range

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.fleet.changes import Move
    from devpolicy._core.fleet.plan import NodePlan
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
            _emit(ctx, to_json(spanned), output, [policy, fleet])
            return
    plan = made(ctx, written, models, nodes, target, before=before)
    if plan.warnings:
        ctx.err.print(painted(rendered(plan.warnings)))
    if locked is not None:
        _compare(locked, plan)
    shown = plan if component is None else _only(plan, component)
    changed = None if before is None else moves(before, plan)
    if to is not None:
        text: str | None = _written(to, shown, nodes, as_json=ctx.json)
    elif ctx.json:
        told = {} if changed is None else {"moves": [one.to_dict() for one in changed]}
        text = to_json({**shown.to_dict(), **told})
    else:
        text = None
    if output is not None or text is not None:
        _emit(ctx, plan.to_json() if text is None else text, output, [policy, fleet, *filter(None, (running, locked))])
    else:
        ctx.out.print(_view(shown, written, nodes, changed, ctx.out.width, locked=locked))


def _emit(ctx: CliContext, text: str, output: str | None, inputs: Sequence[str]) -> None:
    """Write text to a file, whole or not at all, else to standard output."""
    if output is None:
        ctx.out.write(text)
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


def _only(plan: FleetPlan, component: str) -> FleetPlan:
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
        return to_json(OF_FLEETS[to](plan, fleet))
    form = form_named(to)
    plans = {
        None if name == "model" and one.plan.component is None else name: one.plan
        for name, one in plan.components.items()
    }
    hosts = {name: fleet[one.node] for name, one in zip(plans, plan.components.values(), strict=True)}
    return written(form, plans, hosts, as_json=as_json)


def _view(
    plan: FleetPlan, policy: Policy, fleet: Fleet, changed: Sequence[Move] | None, width: int, *, locked: str | None
) -> list[Line]:
    faults = f", {len(fleet.faults)} with a fault" if fleet.faults else ""
    name = f"{fleet.name or 'a fleet'}: {len(fleet)} nodes{faults}, of which {len(plan.nodes)} are used"
    lines: list[Line] = [*facts([("policy", policy.source), ("fleet", name)], width=width), ""]
    several = any(one.plan.granted is not None for one in plan.components.values())
    rows = [
        [node, name, *_row(plan.components[name]), *([_granted(plan.components[name])] if several else [])]
        for node, names in sorted(plan.nodes.items(), key=lambda pair: list(fleet).index(pair[0]))
        for name in names
    ]
    head = ["node", "component", "executes on", "GiB", *(["granted"] if several else [])]
    lines += table(head, rows, width=width, right=(3,), prose=True, styles={0: "device"})
    if changed is not None:
        lines += ["", *moves_lines(changed)]
    if plan.certificate is not None:
        lines += ["", *facts([("bound", _bound(plan))], width=width)]
    pairs = [("digest", plan.digest), *([("locked", f"unchanged, as in {locked}")] if locked else [])]
    return [*lines, "", *facts(pairs, width=width)]


def _bound(plan: FleetPlan) -> str:
    found = plan.certificate
    if found is None or not found.open:
        return "no plan grants more; whether a component could be on a smaller node was not searched to the end"
    return f"for {', '.join(found.open)} it was not shown that no plan grants more; for all others it was"


def _row(one: NodePlan) -> list[str]:
    devices = list(dict.fromkeys(str(unit.runs_on) for unit in one.plan.placements.values()))
    held = sum(budget.held for budget in one.plan.ledger.values())
    kept = sorted({str(unit.device) for unit in one.plan.placements.values() if unit.device != unit.runs_on})
    return [device_range(devices) + "".join(f"+{place}" for place in kept), gib(held)]


def _granted(one: NodePlan) -> str:
    return "" if one.plan.granted is None else str(one.plan.granted).partition(" on ")[0].rstrip(",")


def moves_lines(changed: Sequence[Move]) -> list[Line]:
    """Return what moves, for people."""
    if not changed:
        return [[("nothing moves", "good")]]
    return [[("moves", "strong")], *(f"  {one}" for one in changed)]


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
    names = list(_only(plan, component).components) if component is not None else list(plan.components)
    if component is None and len(names) > 1:
        hint = f"name one: `--component {names[0]}`"
        raise DevPolicyError([Diagnostic("", "the plan has several components", help=hint)])
    name = names[0]
    one = plan.components[name]
    if ctx.json:
        units = one.plan.placements.below(module)
        ctx.print_json(
            {
                "schema": 1,
                "component": name,
                "node": one.node,
                "elsewhere": [{"node": node, "reason": reason} for node, reason in one.elsewhere],
                "module": module,
                "placements": {path: one.plan.to_dict()["placements"].get(path) for path in units},
            }
        )
        return
    ctx.out.print(plan.why(name, module or None))


def show_diff(
    ctx: CliContext,
    first: str,
    second: str,
    fleet: str,
    models: Sequence[str],
    *,
    other: str | None,
    lost: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
) -> int:
    """`devpolicy diff --fleet`: from the plan of A on a fleet to the plan of B with the fewest moves."""
    policies = [on_every_host(Policy.load(name), profile, overrides) for name in (first, second)]
    old = Fleet.load(fleet)
    new = (old if other is None else Fleet.load(other)).without(*lost)
    given = models_given(ctx, models)
    before = made(ctx, policies[0], given, old, None)
    after = made(ctx, policies[1], given, new, None, before=before)
    found = moves(before, after)
    if ctx.json:
        ctx.print_json(
            {
                "schema": 1,
                "a": first,
                "b": second,
                "moves": [one.to_dict() for one in found],
                "before": before.digest,
                "after": after.digest,
            }
        )
    else:
        pairs = [("a", f"{first} on {fleet}"), ("b", f"{second} on {other or fleet}")]
        pairs += [("lost", ", ".join(lost))] if lost else []
        ctx.out.print([*facts(pairs, width=ctx.out.width), "", *moves_lines(found)])
    return 1 if found else 0


def verify_fleet(
    ctx: CliContext, policy: str, loaded: Policy, fleet: str, wanted: Sequence[Property], model: Sequence[str]
) -> int:
    """`devpolicy verify --fleet`: properties of the fleet, and of it with a node less or more."""
    from devpolicy._core.review.fleets import fleet_outcome, varied

    of_hosts = next((one for one in wanted if one.name in OF_A_FAMILY), None)
    if of_hosts is not None:
        raise DevPolicyError([Diagnostic("", f"`{of_hosts}` is a property of a family of hosts", help="leave it out")])
    asked = wanted or [Property("placed_or_refused"), Property("within_budget"), Property("survives", nodes=1)]
    nodes, models = Fleet.load(fleet), models_given(ctx, model)
    verdicts: list[tuple[Property, str, int]] = []
    with ctx.working("planning", patience=PATIENCE):
        family = dict(varied(nodes))
        found = {what: fleet_outcome(loaded, models, one) for what, one in family.items()}
        for one in asked:
            tried = {"": found[""]} if one.name == "survives" else found
            broken = ((what, text) for what, outcome in tried.items() for text in outcome.violations(one))
            what, text = next(broken, ("", ""))
            verdicts.append((one, f"{what}: {text}" if what and text else text, len(tried)))
    if ctx.json:
        told = [
            {"property": str(one), "status": "broken" if why else "proved", "why": why or None, "fleets": count}
            for one, why, count in verdicts
        ]
        ctx.print_json({"schema": 1, "policy": policy, "fleet": fleet, "verdicts": told})
    else:
        lines: list[Line] = [*facts([("fleet", f"{fleet}: {len(nodes)} nodes")], width=ctx.out.width), ""]
        for one, why, count in verdicts:
            fleets = f"{count} fleet{'s' * (count != 1)}"
            lines.append(
                [("broken  ", "error"), (f"{one}: {why}", "strong")]
                if why
                else [("holds   ", "good"), (f"{one}: proved over {fleets}", "")]
            )
        ctx.out.print(lines)
    return 1 if any(why for _, why, _ in verdicts) else 0
