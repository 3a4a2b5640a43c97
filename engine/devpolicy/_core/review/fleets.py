"""The outcome of a policy on a fleet, for tests and properties.

Owns the one way in which both ask it, and the property of fleets, `survives`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.fleet.plan import FleetPlan, NodePlan
from devpolicy._core.fleet.planner import Joint, models_of
from devpolicy._core.fleet.survival import losses, unsurvived
from devpolicy._core.fleet.values import MOST_NODES, Fleet
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy, ResolvedPolicy
from devpolicy._core.language.properties import Property
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.joint import one_piece
from devpolicy._core.review.check import violations
from devpolicy._core.review.outcome import Outcome, Part


@dataclass(frozen=True)
class FleetOutcome:
    """What a policy comes to on a fleet: a plan, or why it is refused."""

    policy: Policy
    models: Mapping[str | None, Any]
    fleet: Fleet
    plan: FleetPlan | None = None
    refusal: Diagnostic | None = None

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcome of each component on its node, as on a host; of a refusal the one that holds the reason."""
        if self.plan is None:
            here = Host(memory=0)
            return [Outcome(self.policy, ResolvedPolicy(), None, here, refusal=self.refusal)]
        return list(self._outcomes(self.plan))

    def _outcomes(self, plan: FleetPlan) -> Iterator[Outcome]:
        before: dict[str, list[Part]] = {}
        for name, one in plan.components.items():
            part = _part(one)
            there = before.setdefault(one.node, [])
            terms = one.plan.trace.terms if one.plan.trace else ()
            made = {"plan": one.plan, "device": one.plan.device, "terms": terms, "before": tuple(there)}
            component = None if one.plan.component is None else name
            yield Outcome(self.policy, part.policy, part.tree, part.host, component, **made)  # type: ignore[arg-type]
            there.append(part)

    def of(self, component: str | None) -> list[tuple[str, NodePlan]]:
        """Return the plans of a component, of all its replicas."""
        if self.plan is None:
            return []
        named = self.plan.components.items()
        return [(name, one) for name, one in named if component in (None, name, name.rpartition("/")[0])]

    def violations(self, wanted: Property) -> Iterator[str]:
        """Yield the violations of a property, by any component on its node or by the fleet."""
        if wanted.name == "survives":
            why = unsurvived(self.policy, self.models, self.fleet, wanted.nodes)
            if why:
                yield why
        elif wanted.name == "same_each_time":
            again = fleet_outcome(self.policy, self.models, self.fleet)
            if (again.plan and again.plan.digest) != (self.plan and self.plan.digest):
                yield "planning again gives another plan"
        else:
            for one in self.outcomes:
                of = f"`{one.component}`: " if one.component is not None else ""
                yield from (of + text for text in violations(wanted, one))


def _part(one: NodePlan) -> Part:
    assert one.recipe is not None  # INVARIANT: the plan was made in this process
    policy, tree = one.recipe.policy, one.recipe.tree
    if tree is None:
        policy, tree = one_piece(policy)
    return Part(policy.for_host(one.recipe.host), tree, one.plan, one.recipe.host)


def fleet_outcome(policy: Policy, models: Mapping[str | None, Any] | ModelTree | None, fleet: Fleet) -> FleetOutcome:
    """Return the outcome of a policy on a fleet. A refusal is an answer."""
    given = models_of(models)
    try:
        return FleetOutcome(policy, given, fleet, Joint(policy, given, fleet, None).plan())
    except (Unsatisfiable, PolicyError) as refused:
        return FleetOutcome(policy, given, fleet, refusal=refused.diagnostics[0])


def on_other_nodes(outcome: FleetOutcome, component: str | None, wanted: Sequence[str]) -> str:
    """Return which copy of a component is on a node that is not expected, empty where none is."""
    for name, one in outcome.of(component):
        if not any(fnmatchcase(one.node, glob) for glob in wanted):
            return f"`{name}` is on `{one.node}`, and {' or '.join(f'`{glob}`' for glob in wanted)} was expected"
    return ""


def varied(fleet: Fleet) -> Iterator[tuple[str, Fleet]]:
    """Yield a fleet as it is, with each node lost, and with one more like each; of alike nodes once."""
    yield "", fleet
    for (lost,) in losses(fleet, 1):
        yield f"without `{lost}`", fleet.without(lost)
    if len(fleet) < MOST_NODES:
        for (like,) in losses(fleet, 1):
            new = next(name for name in map("new-{}".format, count()) if name not in fleet and name not in fleet.faults)
            yield f"with one more like `{like}`", fleet.with_node(new, fleet[like], fleet.labels(like))
