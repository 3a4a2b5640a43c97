"""What is on a node, and what else has a place beside it: each question is planned once.

Owns `Load`, and the plans of a component beside one. Which node a component goes to is `assignment`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.fleet.components import FleetComponent, Node, Said
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.attempts import Attempts
from devpolicy._core.planning.replicas import Group, copies_on_one_host, each_copy
from devpolicy._core.planning.search import Away, Choice

Load = tuple[tuple[int, Choice, int], ...]
"""What is on a node, as it was planned there: the number of a component, its wishes, and how many copies."""


class Loads:
    """The plans of components beside loads, by the kind of a node."""

    def __init__(self, components: Sequence[FleetComponent]) -> None:
        self.components = components
        self.refused: dict[tuple[int, Load, int], Diagnostic] = {}
        """Why a component had no place, by the kind of the node, what was there, and the component."""
        self._made: dict[tuple[int, Load, int, Choice, int], Group] = {}
        self._reserved: dict[tuple[int, Load], dict[str, int]] = {}

    def plans(self, node: Node, load: Load, number: int, choice: Choice, most: int) -> Group:
        """Return the plans of as many copies of a component as have a place beside a load, at most `most`."""
        key = (node.kind, load, number, choice, most)
        if key not in self._made:
            self._made[key] = self._plan(node, load, number, choice, most)
        return self._made[key]

    def kept(self, node: Node, number: int, plans: Group) -> Away:
        """Return the bytes that `overflow` keeps away in plans, at its last place first."""
        return self.components[number].attempts(node.kind, node.host).kept(plans)

    def attempts(self, node: Node, load: Load, number: int) -> Attempts:
        """Return the attempts of a component beside a load."""
        return self.components[number].attempts(node.kind, node.host, self.reserved(node, load))

    def reserved(self, node: Node, load: Load) -> dict[str, int]:
        """Return the bytes that a load reserves on each device of a node."""
        key = (node.kind, load)
        if key not in self._reserved:
            plans = [plan for at in range(len(load)) for plan in self.on(node, load, at)]
            self._reserved[key] = reserved_bytes(plans)
        return self._reserved[key]

    def on(self, node: Node, load: Load, at: int) -> Group:
        """Return the plans of one entry of a load."""
        number, choice, count = load[at]
        return self.plans(node, load[:at], number, choice, count)[:count]

    def _plan(self, node: Node, load: Load, number: int, choice: Choice, most: int) -> Group:
        component = self.components[number]
        said = component.by_kind[node.kind]
        made: list[Plan] = []
        try:
            if not isinstance(said, Said):
                raise Unsatisfiable(said)
            if not _is_among(choice, said):
                raise Unsatisfiable(Diagnostic("DP307", "the profile of this node has no such choice"))
            attempts = self.attempts(node, load, number)
            policy = attempts.fixed(choice)
            make = attempts.make_plan(choice, advise=False)
            if policy.replicas == 1:
                return (make(policy, {}),)
            if policy.replicas == "each":
                most = min(most, copies_on_one_host(policy))
            for plan in islice(each_copy(policy, make, made), most):
                made.append(plan)
        except Unsatisfiable as refused:
            self.refused.setdefault((node.kind, load, number), refused.diagnostics[0])
        return tuple(made)


def _is_among(choice: Choice, said: Said) -> bool:
    one, policy = choice.candidate, said.policy
    return (
        one.prefer < len(policy.prefer)
        and one.model < len(said.models.names)
        and one.quantization < max(1, len(policy.loading.quantization))
    )
