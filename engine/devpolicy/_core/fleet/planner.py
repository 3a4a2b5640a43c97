"""`plan_fleet`: components and replicas over the nodes of a fleet, jointly.

Owns the order of decisions. First the wishes: in the order in which the policy writes its components, each gives way as
little as it can, as far as every later one still finds a place. Then the nodes: in the same order, each takes the
smallest one that serves, while no wish is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devpolicy._core.errors import DevPolicyError, Unsatisfiable
from devpolicy._core.fleet.assignment import Asked, Assigned, Assigner, Assignment, unnamed
from devpolicy._core.fleet.components import components_of, nodes_of
from devpolicy._core.fleet.loads import Loads
from devpolicy._core.fleet.outcome import finished
from devpolicy._core.fleet.plan import FleetPlan
from devpolicy._core.fleet.refusals import check_labels, nothing_left, refused_alone
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.placement.joint import refused_beside
from devpolicy._core.planning.search import Away, Choice, Search
from devpolicy._core.public import public
from devpolicy._core.verbs.inputs import PolicyLike, policy_of, shown


@public("devpolicy.fleet")
def plan_fleet(
    policy: PolicyLike,
    models: Any = None,
    fleet: Fleet | str | None = None,
    *,
    target: str | None = None,
    before: FleetPlan | None = None,
) -> FleetPlan:
    """Compile a policy for its components on the nodes of a fleet.

    `models` maps a component's name to its model, as `plan_all` takes it; components that are not in it have the
    `model` that the policy names, or take what it says that they need. For a policy without components it is one model.
    `fleet` is a `Fleet`, or what `Fleet.load` takes. Each component, and each replica, is on one node; several may
    share one, and even a device, as they do on one host. The plan depends on no order and on no name of the nodes, but
    for which of alike nodes is taken.

    `before` is a plan that runs: then wishes are granted as without it, and of the plans that grant them it is one that
    moves the fewest copies. A copy stays where its node and its plan there are the same.

    Raises `PolicyError`, `FleetError` or `ModelError` for an input that cannot be read, and `Unsatisfiable` where the
    fleet has no place for a component (DP308), or no node has a label that the policy asks for (DP309).
    """
    loaded = policy_of(policy)
    there = fleet if isinstance(fleet, Fleet) else Fleet.load(fleet)  # type: ignore[arg-type] # it says what it takes
    return Joint(loaded, models_of(models), there, target).plan(before)


def models_of(models: Any) -> Mapping[str | None, Any]:
    """Return models by component; a single one is under `None`."""
    if models is None:
        return {}
    if not isinstance(models, Mapping) or "model_type" in models:
        return {None: models}
    for name in models:
        if name is not None and not isinstance(name, str):
            raise DevPolicyError(f"a component is named by text, not by {shown(name)}")
    return models


class Joint:
    """One question: a policy, models and a fleet."""

    def __init__(self, policy: Any, models: Mapping[str | None, Any], fleet: Fleet, target: str | None) -> None:
        self.fleet, self.policy = fleet, policy
        self.nodes = nodes_of(fleet)
        self.components = components_of(policy, models, self.nodes, target)
        self.loads = Loads(self.components)
        self.assigner = Assigner(self.nodes, self.components, self.loads)

    def plan(self, before: FleetPlan | None = None) -> FleetPlan:
        """Return the plan, the one with the fewest moves where something runs now. Raises `Unsatisfiable`."""
        if not self.components:
            raise DevPolicyError("there is nothing to plan: name components in the policy, or give models")
        check_labels(self.components, self.nodes, self.fleet)
        alone = [self._alone(number) for number in range(len(self.components))]
        found = self.assigner.first([Asked((one.choice,), one.away) for one in alone])
        steps = self.assigner.steps
        # Nobody can grant more than an empty fleet does; fewer bytes kept away only where there are some.
        granted = found is not None and not any(any(one.away) for one in found)
        if found is None:
            steps.exhausted = False
            found = self._granted()
        granted = granted or steps.whole
        steps.exhausted = False
        found = self._smallest(found) if before is None else self._stays(found, before)
        return finished(self, found, granted=granted, moved=before is not None)

    def _alone(self, number: int) -> Assigned:
        """Return the best that a component gets on an empty fleet, which is the best that it ever gets."""

        def attempt(choice: Choice) -> Away | None:
            made = self.assigner.alone(number, choice)
            return None if made is None else made.away

        try:
            options = self.components[number].options
        except Unsatisfiable as refused:
            raise refused_beside(refused, self.components[number].title, [], []) from None
        choice = Search(options, attempt).run()
        made = None if choice is None else self.assigner.alone(number, choice)
        if made is None:
            raise refused_alone(self, number)
        return made

    def _granted(self) -> Assignment:
        """Return the assignment whose wishes have given way least, component after component."""
        spent = self.spent()
        witness = self.assigner.first(spent)
        if witness is None:
            raise nothing_left(self, exhausted=not self.assigner.steps.whole)
        asked = list(spent)
        for number in range(len(self.components)):
            witness = self._grant(number, asked, witness)
            asked[number] = Asked((witness[number].choice,), witness[number].away)
        return self.assigner.first(asked) or witness

    def _grant(self, number: int, asked: Sequence[Asked], witness: Assignment) -> Assignment:
        """Return an assignment that gives one component the most, given what those before it were granted."""
        found: dict[Choice, Assignment] = {}

        def attempt(choice: Choice) -> Away | None:
            wanted = [*asked]
            wanted[number] = Asked((choice,))
            made = self.assigner.least_away(wanted, number)
            if made is None:
                return None
            found[choice] = made
            return made[number].away

        choice = Search(self.components[number].options, attempt).run()
        # Where the search gave up, what is known to fit is what there is.
        if choice is None or (choice not in found and attempt(choice) is None):
            return witness
        return found[choice]

    def _smallest(self, found: Assignment) -> Assignment:
        """Return an assignment with the same wishes in which each component is on the smallest nodes that it can be."""
        asked = [Asked((one.choice,), one.away) for one in found]
        for number in range(len(found)):
            least = self.assigner.least_cost(number, asked[number])
            while found[number].cost != least:
                asked[number] = asked[number]._replace(below=found[number].cost)
                better = self.assigner.first(asked)
                if better is None:
                    break
                found = better
            asked[number] = asked[number]._replace(most=found[number].cost, below=None)
        return found

    def _stays(self, found: Assignment, before: FleetPlan) -> Assignment:
        """Return an assignment with the same wishes that moves as few copies as may be."""
        number_of = {node.name: number for number, node in enumerate(self.nodes)}
        running: dict[str, list[tuple[int, str]]] = {}
        for name, one in before.components.items():
            # A node that is lost is none of these: what ran there moves wherever it goes.
            where = number_of.get(one.node, -1)
            running.setdefault(self._of(name), []).append((where, unnamed(one.plan)))
        self.assigner.occupied = frozenset(at for places in running.values() for at, _ in places)
        asked = [
            Asked((one.choice,), one.away, stays=tuple(running.get(component.title, ())))
            for one, component in zip(found, self.components, strict=True)
        ]
        least = sum(at < 0 for one in asked for at, _ in one.stays)
        most = sum(count for one in found for _, count in one.copies)
        for moves in range(min(least, most), most + 1):
            made = self.assigner.first(asked, moves)
            if made is not None:
                return made
        return found

    def _of(self, name: str) -> str:
        """Return the component of which a name in a plan is a replica's."""
        titles = {component.title for component in self.components}
        stem = name.rpartition("/")[0]
        return stem if name not in titles and stem in titles else name

    def spent(self) -> list[Asked]:
        """Return each component with every wish as far spent as it may be, those choices first that gave way most."""
        searches = (Search(component.options, lambda choice: None) for component in self.components)
        return [Asked(tuple(search.spent())) for search in searches]
