"""From an assignment to a plan: the plans under their names, what was granted and why no more, and why no other node.

Owns the words. The assignment is decided, and nothing here changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic
from devpolicy._core.fleet.assignment import Assigned, Assignment
from devpolicy._core.fleet.components import FleetComponent, Node, Said, ordinals_in
from devpolicy._core.fleet.loads import Load
from devpolicy._core.fleet.plan import FleetPlan, NodePlan, Recipe
from devpolicy._core.fleet.refusals import in_short
from devpolicy._core.placement.joint import starts_after
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.plan import Plan, Trace
from devpolicy._core.planning import reasons
from devpolicy._core.planning.replicas import Group, used_accelerators

if TYPE_CHECKING:
    from devpolicy._core.fleet.planner import Joint


def finished(joint: Joint, found: Assignment, *, granted: bool, moved: bool) -> FleetPlan:
    """Return the plan of an assignment: whether nobody grants more, and whether it goes on from one that runs."""
    loads: list[Load] = [()] * len(joint.nodes)
    plans: dict[str, NodePlan] = {}
    for number, (component, one) in enumerate(zip(joint.components, found, strict=True)):
        before = list(loads)
        copies: list[NodePlan] = []
        for at, count in one.copies:
            node, load = joint.nodes[at], before[at]
            loads[at] = (*load, (number, one.choice, count))
            group = joint.loads.on(node, loads[at], len(load))
            elsewhere = tuple(_elsewhere(joint, number, one, at, before))
            recipes = _recipes(joint, node, load, number, one, group)
            told = _told(joint, node, load, number, one, group)
            copies += [NodePlan(node.name, plan, elsewhere, made) for plan, made in zip(told, recipes, strict=True)]
        several = component.said.policy.replicas != 1
        for position, copy in enumerate(copies):
            name = f"{component.title}/{position}" if several else component.title
            before_it = [other.plan for other in plans.values() if other.node == copy.node]
            own = name if several else copy.plan.component
            plan = replace(copy.plan, component=own, starts_after=starts_after(copy.plan, before_it))
            plans[name] = replace(copy, plan=plan)
    certificate = None
    if not (granted and joint.assigner.steps.whole):
        from devpolicy._core.fleet.bound import certify

        certificate = certify(joint, found, granted=granted, moved=moved)
    return FleetPlan(plans, tuple(_warnings(joint.components)), certificate, joint.fleet)


def _recipes(joint: Joint, node: Node, load: Load, number: int, one: Assigned, group: Group) -> Iterator[Recipe]:
    """Yield what each copy on a node was made of, beside those before it."""
    attempts = joint.loads.attempts(node, load, number)
    tree = attempts.models.read(one.choice.candidate.model)
    for at in range(len(group)):
        beside = reserved_bytes(group[:at])
        names = dict.fromkeys([*attempts.reserved, *beside])
        reserved = {name: attempts.reserved.get(name, 0) + beside.get(name, 0) for name in names}
        used = used_accelerators(group[:at])
        policy = attempts.fixed(one.choice)
        policy = replace(policy, avoid=(*policy.avoid, *used))
        yield Recipe(policy, tree, node.host, reserved, attempts.target)


def _told(joint: Joint, node: Node, load: Load, number: int, one: Assigned, group: Group) -> Iterator[Plan]:
    """Yield plans with what was granted to them, and why no more was, as on one host."""
    attempts = joint.loads.attempts(node, load, number)
    policy = attempts.fixed(one.choice)
    tells = bool(attempts.policy.relax or attempts.rooms - {"prefer", "overflow"})
    candidate = one.choice.candidate
    for wish in ("prefer", "model", "quantization"):
        for value in range(getattr(candidate, wish)):
            attempts.attempt(replace(one.choice, candidate=replace(candidate, **{wish: value})))
    told = tuple(reasons.not_granted(attempts, one.choice, group)) if tells else ()
    wishes = reasons.granted(attempts, one.choice, policy, group) if tells else None
    terms = [
        (str(attempts.policy.prefer[at]), reasons.why_not(attempts, "prefer", at).message)
        for at in range(candidate.prefer)
    ]
    for plan in group:
        trace = plan.trace or Trace()
        trace = replace(trace, terms=(*terms, *trace.terms))
        yield replace(plan, granted=wishes, not_granted=told, trace=trace)


def _elsewhere(joint: Joint, number: int, one: Assigned, chosen: int, loads: list[Load]) -> Iterator[tuple[str, str]]:
    """Yield each kind of other node, with why the component is not there."""
    component, seen = joint.components[number], dict[tuple[str, str], list[str]]()
    for at, node in enumerate(joint.nodes):
        if at not in dict(one.copies):
            reason = _why_not_here(joint, component, number, one, at, chosen, loads)
            seen.setdefault((str(node.kind), reason), []).append(node.name)
    for (_, reason), names in seen.items():
        others = len(names) - 1
        yield names[0] + (f" and {others} alike" if others else ""), reason
    for name, reason in joint.fleet.faults.items():
        yield name, f"it cannot be used: {reason}"


def _why_not_here(
    joint: Joint, component: FleetComponent, number: int, one: Assigned, at: int, chosen: int, loads: list[Load]
) -> str:
    node, load = joint.nodes[at], loads[at]
    lacks = component.unlabelled(node)
    if lacks:
        return f"it has no label {lacks}"
    if node.size == joint.nodes[chosen].size and node.kind == joint.nodes[chosen].kind and load == loads[chosen]:
        return "it is alike, and its name comes later"
    if at > chosen:
        return "it is larger, and a smaller node does"
    if joint.loads.plans(node, load, number, one.choice, 1):
        return "it would grant less, or leave less room for others"
    refused = joint.loads.refused.get((node.kind, load, number))
    return in_short(refused) if refused is not None else "it has no place for what is granted"


def _warnings(components: list[FleetComponent]) -> Iterator[Diagnostic]:
    told: list[str] = []
    for component in components:
        for said in component.by_kind.values():
            told += [term for term in ordinals_in(said) if term not in told] if isinstance(said, Said) else []
    for term in told:
        message = f"`{term}` names a device by its number, which is another device on every node of a fleet"
        hint = "name its type, or a class of `[devices]` by what the device is"
        yield Diagnostic("DP514", message, help=hint, severity="warning")
