"""Components that are planned one beside the other on one host.

Owns the components that are planned already, and the planning order. The context of a caller's thread is `context`'s.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from devpolicy._core.abilities import DEFAULT_TARGET, target_of
from devpolicy._core.errors import DevPolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.layers import in_order, source
from devpolicy._core.language.policy import Policy, ResolvedPolicy
from devpolicy._core.language.profiles import apply_overlays
from devpolicy._core.model.held import as_held
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.joint import refused_beside, reserved_bytes
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.verbs.inputs import own_tree, shown, tree_of
from devpolicy._core.verbs.suggestions import joint_suggestions


@dataclass(frozen=True, slots=True)
class Request:
    """One component to be planned, as a caller asks for it."""

    policy: Policy
    component: str | None = None
    model: Any = None
    """What the caller gives; `None` means what the policy says of the component."""
    component_class: str | None = None
    """The path of the component's class, where it is known."""
    target: str | None = None

    def __post_init__(self) -> None:
        if self.component is not None and not isinstance(self.component, str):
            raise DevPolicyError(f"a component is named by text, not by {shown(self.component)}")
        if self.component_class is not None and not isinstance(self.component_class, str):
            raise DevPolicyError(f"a component's class is a class or its path, not {shown(self.component_class)}")
        if self.target is not None:
            target_of(self.target)

    @property
    def has_size(self) -> bool:
        """Whether there is a model, or bytes that the policy says it needs: without one only a device is chosen."""
        return self.model is not None or _known(self.policy, self.component, self.component_class)

    def on(self, host: Host) -> Request:
        """Return the request with the profiles and values of its policy that belong to a host applied."""
        policy = apply_overlays(self.policy, host)
        return self if policy is self.policy else replace(self, policy=policy)

    @property
    def resolved(self) -> ResolvedPolicy:
        """What the policy says of the component."""
        return self.policy.for_component(self.component, self.component_class)

    @property
    def meaning(self) -> tuple[ResolvedPolicy, str, object]:
        """What the policy says of the component, the consumer, and what gives its size where the caller does not."""
        resolved = self.resolved
        entry = None if self.component is None else source(self.policy, self.component, self.component_class)
        own = None if self.model is not None or entry is None else (entry.model, entry.folder, entry.needs)
        return resolved, self.target or resolved.target or DEFAULT_TARGET, own

    def names_the_model_of(self, other: Request) -> bool:
        """Whether both give the same model, so that it need not be read to know."""
        by_name = isinstance(self.model, str | PathLike) and isinstance(other.model, str | PathLike)
        return self.model is other.model or (by_name and os.fspath(self.model) == os.fspath(other.model))

    def tree(self) -> ModelTree | None:
        """Return the model's structure, `None` where at most the bytes are known. Raises `ModelError`."""
        if self.model is None and self.component is not None:
            entry = source(self.policy, self.component, self.component_class)
            tree = None if entry is None else own_tree(entry)
        else:
            tree = tree_of(self.model)
        if tree is None:
            return None
        asked = self.resolved.loading
        return as_held(tree, architecture=asked.architecture, variant=asked.variant, adapters=asked.adapter)


@dataclass(frozen=True, slots=True)
class Planned:
    """A component that is there: what was asked, and its plan."""

    request: Request
    tree: ModelTree | None
    plan: Plan
    reserved: Mapping[str, int]
    """Bytes by device that the components beside it have."""


@dataclass(slots=True)
class JointPlanner:
    """What is on one host, in the order in which it came."""

    host: Host
    placed: tuple[Planned, ...] = ()
    models: Mapping[str, Any] = field(default_factory=dict)
    """Models that are given for components, in place of those that a policy names."""
    advise: bool = True

    def without(self, components: Container[str | None]) -> JointPlanner:
        """Return a copy from which `components` are gone; what has no name stays."""
        kept = (one for one in self.placed if one.plan.component is None or one.plan.component not in components)
        return replace(self, placed=tuple(kept))

    def place(self, request: Request) -> Planned:
        """Plan a component beside all others that are there, and keep it.

        Those that the policy writes before it come first, if their sizes are known. A component that is there is
        planned anew only where it is asked for otherwise; then it is moved, not added. Raises as `make_plan` does, and
        `ModelError`; what was there stays.
        """
        request = request.on(self.host)
        same = self._same(request)
        if same is not None:
            return same
        self._place_those_before(request)
        others = self.without({request.component}).placed
        tree = request.tree()
        reserved = reserved_bytes([one.plan for one in others])
        placed = Planned(request, tree, self._plan(request, tree, others, reserved), reserved)
        self.placed = (*others, placed)
        return placed

    def place_all(self, policy: Policy, *, target: str | None = None) -> dict[str, Planned]:
        """Plan all components that the policy has, or that `models` names, in the policy's order."""
        policy = apply_overlays(policy, self.host)
        names = in_order(policy, self.models)
        # Of all components at once: a host that lacks several things is told all of them.
        required = [one for name in names for one in policy.for_component(name).required]
        check_requirements(dict.fromkeys([policy.require, *required]), self.host)
        return {name: self.place(Request(policy, name, self.models.get(name), target=target)) for name in names}

    def _same(self, request: Request) -> Planned | None:
        """Return what is there for a request that says the same of the same component."""
        for one in self.placed if request.component is not None else ():
            before = one.request
            alike = before.component == request.component and before.meaning == request.meaning
            if alike and (before.names_the_model_of(request) or one.tree == request.tree()):
                return one
        return None

    def _place_those_before(self, request: Request) -> None:
        """Place what the policy writes before a component."""
        there = {one.plan.component for one in self.placed}
        for name in _before(request, self.models):
            model = self.models.get(name)
            if name not in there and (model is not None or _known(request.policy, name)):
                self.place(Request(request.policy, name, model))

    def _plan(
        self, request: Request, tree: ModelTree | None, others: Sequence[Planned], reserved: Mapping[str, int]
    ) -> Plan:
        plans = [one.plan for one in others]
        try:
            return make_plan(
                request.resolved,
                tree,
                self.host,
                target=request.target,
                reserved=reserved,
                advise=self.advise,
            )
        except Unsatisfiable as refused:
            if request.component is None or not (plans or request.policy.components):
                raise
            tried = list(joint_suggestions(self.host, request, tree, others)) if self.advise else []
            raise refused_beside(refused, request.component, plans, tried) from None


def _known(policy: Policy, component: str | None, component_class: str | None = None) -> bool:
    return component is not None and source(policy, component, component_class) is not None


def _before(request: Request, models: Iterable[str]) -> list[str]:
    """Return the components that are planned before the requested one: those of the policy, and those of `models`."""
    if request.component is None:
        return []
    names = in_order(request.policy, [*models, request.component])
    return names[: names.index(request.component)]
