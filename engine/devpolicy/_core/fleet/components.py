"""The components of a policy as a fleet sees them: the policy resolved for each on each kind of node.

Owns `Node`, the facts of one that planning uses, and `FleetComponent`. Nodes of one kind are planned once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.fleet.values import Fleet, natural
from devpolicy._core.host import Host
from devpolicy._core.language.layers import in_order
from devpolicy._core.language.policy import Policy, ResolvedPolicy, apply_overlays
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.language.wishes import Wish
from devpolicy._core.planning.attempts import Attempts
from devpolicy._core.planning.search import Candidate, Contexts, Options
from devpolicy._core.planning.wishes import Models
from devpolicy._core.verbs.request import Request

NoPlace = Diagnostic
"""Why a component has no place on a node."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its name, its host as plans see it, and the number of that host among the fleet's."""

    name: str
    host: Host
    kind: int
    labels: Mapping[str, str]
    rank: int = 0
    """The position of its size among those of the fleet, equal for equal hosts."""

    @property
    def size(self) -> tuple[int, int, int]:
        """What makes a node smaller than another: the memory of its accelerators, then its RAM, then its disk."""
        usable = sum(one.memory for one in self.host.accelerators if one.fault is None)
        return usable, self.host.memory, self.host.disk


def nodes_of(fleet: Fleet) -> list[Node]:
    """Return the nodes of a fleet, the smallest first; alike ones by their names."""
    kinds: dict[Host, int] = {}
    nodes = []
    for name, host in fleet.items():
        seen = _as_planned(host)
        nodes.append(Node(name, seen, kinds.setdefault(seen, len(kinds)), fleet.labels(name)))
    # What two hosts of equal size are made of comes before their names: a new name changes no choice between them.
    nodes.sort(key=lambda node: (node.size, repr(node.host), natural(node.name)))
    ranks: dict[int, int] = {}
    return [replace(node, rank=ranks.setdefault(node.kind, len(ranks))) for node in nodes]


def _as_planned(host: Host) -> Host:
    """Return a host without what identifies its machine: no plan depends on it."""
    devices = [replace(one, uuid=None, physical=None) for one in host.accelerators]
    return replace(host, name=None, description=None, accelerators=tuple(devices))


@dataclass(frozen=True, slots=True)
class Said:
    """The policy resolved for a component on one kind of node, and the models among which it chooses there."""

    policy: ResolvedPolicy
    models: Models
    target: str | None


@dataclass
class FleetComponent:
    """One component of the policy, asked for on every kind of node."""

    name: str | None
    by_kind: Mapping[int, Said | NoPlace]
    refused: dict[int, NoPlace] = field(default_factory=dict)

    @cached_property
    def said(self) -> Said:
        """What is said on the first kind of node on which anything is. Raises why where there is none."""
        found = next((one for one in self.by_kind.values() if isinstance(one, Said)), None)
        if found is None:
            raise Unsatisfiable([one for one in self.by_kind.values() if isinstance(one, Diagnostic)][:1])
        return found

    @property
    def title(self) -> str:
        """What the plan calls it."""
        return "model" if self.name is None else self.name

    def unlabelled(self, node: Node) -> str:
        """Return what a node's labels lack of those that the component asks for; empty where they are there."""
        said = self.by_kind[node.kind]
        return lacking(said.policy, node.labels) if isinstance(said, Said) else ""

    @cached_property
    def options(self) -> Options:
        """What a search chooses from on any node. Raises `Unsatisfiable` where every model is passed over."""
        found = [self.attempts(kind, Host(memory=0)).options for kind, one in self.by_kind.items() if _is_said(one)]
        if not found:
            return self.attempts_of(self.said, Host(memory=0), {}).options
        contexts: dict[int, Contexts] = {}
        for one in reversed(found):
            contexts |= one.contexts
        candidates = {candidate for one in found for candidate in one.candidates}
        in_turn: Sequence[Candidate] = sorted(candidates, key=lambda one: (one.prefer, one.model, one.quantization))
        return Options(in_turn, contexts, any(one.overflow for one in found), found[0].relax)

    @property
    def relax(self) -> Sequence[Wish]:
        """Every wish, the first to give way first."""
        return self.options.relax

    def attempts(self, kind: int, host: Host, reserved: Mapping[str, int] | None = None) -> Attempts:
        """Return the attempts of the component on a kind of node, beside what others reserve there."""
        said = self.by_kind[kind]
        if not isinstance(said, Said):
            raise Unsatisfiable(said)
        return self.attempts_of(said, host, reserved or {})

    @staticmethod
    def attempts_of(said: Said, host: Host, reserved: Mapping[str, int]) -> Attempts:
        """Return the attempts by what is said."""
        return Attempts(said.policy, said.models, host, said.target, reserved)


def lacking(policy: ResolvedPolicy, labels: Mapping[str, str]) -> str:
    """Return which labels are missing of those that a component asks for; empty where they are there."""
    asked = policy.node.labels if policy.node is not None else ()
    missing = [(name, values) for name, values in asked if labels.get(name) not in values]
    return " and ".join(f"`{name} = {' or '.join(values)}`" for name, values in missing)


def _is_said(one: Said | NoPlace) -> bool:
    return isinstance(one, Said)


def components_of(
    policy: Policy, models: Mapping[str | None, Any], nodes: Sequence[Node], target: str | None
) -> list[FleetComponent]:
    """Return the components in the order in which the policy writes them. Raises `PolicyError` and `ModelError`."""
    hosts = {node.kind: node.host for node in nodes}
    overlaid: dict[int, Policy | NoPlace] = {}
    for kind, host in hosts.items():
        try:
            overlaid[kind] = apply_overlays(policy, host)
        except Unsatisfiable as refused:  # profiles that contradict each other on this kind
            overlaid[kind] = refused.diagnostics[0]
    read = [one for one in overlaid.values() if isinstance(one, Policy)]
    given = [name for name in models if name is not None]
    names: list[str | None] = (
        [None]
        if None in models
        else list(dict.fromkeys(name for one in read or [policy] for name in in_order(one, given)))
    )
    return [_component(name, overlaid, models.get(name), target) for name in names]


def _component(
    name: str | None, overlaid: Mapping[int, Policy | NoPlace], model: object, target: str | None
) -> FleetComponent:
    made: dict[int, Said] = {}
    by_kind: dict[int, Said | NoPlace] = {}
    unreadable: list[PolicyError] = []
    for kind, policy in overlaid.items():
        if not isinstance(policy, Policy):
            by_kind[kind] = policy
            continue
        try:
            if id(policy) not in made:
                request = Request(policy, name, model, target=target)
                made[id(policy)] = Said(request.resolved, request.models(), target)
            by_kind[kind] = made[id(policy)]
        except PolicyError as broken:
            unreadable.append(broken)
            by_kind[kind] = broken.diagnostics[0]
    if unreadable and not made:
        raise unreadable[0]
    return FleetComponent(name, by_kind)


def ordinals_in(said: Said) -> list[str]:
    """Return the terms of a policy that name a device by its number, which means another device on every node."""
    policy = said.policy
    terms: list[DeviceSelector] = [*policy.prefer, *policy.overflow, *policy.avoid]
    terms += [term for rule in policy.rules for term in (*rule.prefer, *rule.overflow)]
    return list(dict.fromkeys(str(term) for term in terms if term.id is not None and term.type not in ("cpu", "disk")))
