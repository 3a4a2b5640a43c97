"""Components that are planned one beside the other on one host.

Owns the components that are planned already, the planning order, and how far what comes later leaves the wishes of what
comes first. The context of a caller's thread is `context`'s.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError, PolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.layers import in_order, stem_of
from devpolicy._core.language.policy import Policy, apply_overlays
from devpolicy._core.placement.joint import refused_beside, starts_after
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.wishes import Accept, Granting, Wishes
from devpolicy._core.toml.tables import did_you_mean
from devpolicy._core.verbs.request import Planned, Request
from devpolicy._core.verbs.suggestions import joint_suggestions

__all__ = ["JointPlanner", "Planned", "Request"]

Group = tuple[Planned, ...]
"""What one component is given: one plan, or one for each replica."""
_Ahead = tuple[tuple[tuple[Planned, ...], Group], ...]

_MOST_TRIES = 64
"""Combinations of what comes later that are tried, beyond which it counts as without a place."""


@dataclass(slots=True)
class JointPlanner:
    """What is on one host, in the order in which it came."""

    host: Host
    placed: Group = ()
    models: Mapping[str, Any] = field(default_factory=dict)
    """Models that are given for components, in place of those that a policy names."""
    advise: bool = True
    target: str | None = None
    """The consumer that all components are planned for; `None` is the policy's for each."""
    _ahead: _Ahead = ()
    """What was planned ahead of its turn: what it is beside, and the plans."""

    def without(self, components: Container[str | None]) -> JointPlanner:
        """Return a copy from which `components` are gone, with all replicas; what has no name stays."""
        kept = (one for one in self.placed if one.request.component is None or one.request.component not in components)
        return replace(self, placed=tuple(kept))

    def place(self, request: Request) -> Planned:
        """Plan a component beside all others that are there, and keep it; of several replicas return the one named.

        Those that the policy writes before it come first, if their sizes are known. A component that is there is
        planned anew only where it is asked for otherwise; then it is moved, not added. Raises as `make_plan` does, and
        `ModelError`; what was there stays.
        """
        group = self.place_copies(request)
        return next((one for one in group if one.plan.component == request.component), group[0])

    def place_copies(self, request: Request) -> Group:
        """Plan a component as `place` does, and return all of its replicas; of most components there is one.

        Raises `PolicyError` (DP202) for the name of a replica that there is not.
        """
        asked = request.on(self.host)
        request = asked
        if asked.component is not None:
            request = replace(asked, component=stem_of(asked.policy.components, asked.component))
        group = self._same(request) if request.component is not None else ()
        if not group:
            others = self.placed
            if request.component is not None:
                self._place_those_before(request, request.component)
                others = self.without({request.component}).placed
            group = self._grant(request, others)
            self.placed = (*others, *group)
        if asked.component != request.component and all(one.plan.component != asked.component for one in group):
            known = did_you_mean("", [str(one.plan.component) for one in group])
            raise PolicyError(Diagnostic("DP202", f"there is no replica `{asked.component}`", help=known))
        return group

    def place_all(self, policy: Policy, *, target: str | None = None) -> dict[str, Planned]:
        """Plan all components that the policy has, or that `models` names, in the policy's order."""
        policy = apply_overlays(policy, self.host)
        self.target = target
        names = in_order(policy, self.models)
        # Of all components at once: a host that lacks several things is told all of them.
        required = [one for name in names for one in policy.for_component(name).required]
        check_requirements(dict.fromkeys([policy.require, *required]), self.host)
        asked = (Request(policy, name, self.models.get(name), target=target) for name in names)
        return {str(one.plan.component): one for request in asked for one in self.place_copies(request)}

    def _same(self, request: Request) -> Group:
        """Return the plans of an earlier, equal request for the same component, empty where there is none."""
        group = tuple(one for one in self.placed if one.request.component == request.component)
        if not group or group[0].request.meaning != request.meaning:
            return ()
        first = group[0]
        return group if first.request.names_the_model_of(request) or first.tree == request.tree() else ()

    def _place_those_before(self, request: Request, component: str) -> None:
        """Place the components of the policy and of `models` that are planned before the requested one."""
        there = {one.request.component for one in self.placed}
        names = in_order(request.policy, [*self.models, component])
        for name in names[: names.index(component)]:
            before = Request(request.policy, name, self.models.get(name))
            if name not in there and before.has_size:
                self.place(before)

    # What comes later.

    def _grant(self, request: Request, others: Group) -> Group:
        """Plan a component beside others: its wishes as far as every component that comes later finds a place."""
        for beside, group in self._ahead:
            if group[0].request.says_the_same_as(request) and list(map(id, beside)) == list(map(id, others)):
                return group
        self._ahead = ()
        wishes = self._wishes(request, [one.plan for one in others])
        later = self._later(request, request.component) if request.component is not None and wishes.may_give_way else []
        if later:
            self._ahead = self._planned_ahead([request, *later], others)
            if self._ahead:
                return self._ahead[0][1]
            wishes.accept = self._accept(later, [one.plan for one in others])
        try:
            return self._group(request, others, wishes, advise=self.advise)
        except Unsatisfiable as refused:
            raise self._refused(refused, request, others, wishes) from None

    def _accept(self, later: Sequence[Request], plans: Sequence[Plan]) -> Accept | None:
        """Return a predicate: whether plans leave room for what comes later; `None` where nothing leaves any."""
        if not self._find_place(later, plans, iter(range(_MOST_TRIES))):
            return None
        names = " and ".join(f"`{one.component}`" for one in later)

        def accept(made: tuple[Plan, ...]) -> str:
            found = self._find_place(later, [*plans, *made], iter(range(_MOST_TRIES)))
            return "" if found else f"beside it {names} would find no place"

        return accept

    def _wishes(self, request: Request, plans: Iterable[Plan]) -> Wishes:
        return Wishes(request.resolved, request.models(), self.host, request.target, reserved_bytes(plans))

    def _later(self, request: Request, component: str) -> list[Request]:
        """Return what comes behind a component and is not there yet, as far as its size is known."""
        names = in_order(request.policy, [*self.models, component])
        there = {one.request.component for one in self.placed}
        asked = (
            Request(request.policy, name, self.models.get(name), target=self.target)
            for name in names[names.index(component) + 1 :]
            if name not in there
        )
        return [one for one in asked if one.has_size]

    def _planned_ahead(self, requests: Sequence[Request], others: Group) -> _Ahead:
        """Plan one after the other as if nothing came later; empty where one is refused.

        Where none is, that is what each of them is granted.
        """
        beside, chain = others, list[tuple[Group, Group]]()
        for request in requests:
            try:
                group = self._group(request, beside, self._wishes(request, [one.plan for one in beside]), advise=False)
            except (Unsatisfiable, PolicyError):
                return ()
            except ModelError:
                continue  # it is told when its turn comes
            chain.append((beside, group))
            beside = (*beside, *group)
        return tuple(chain)

    def _find_place(self, requests: Sequence[Request], plans: Sequence[Plan], tries: Iterator[int]) -> bool:
        """Whether all that comes later can be planned, with its wishes as far spent as they must be."""
        if not requests:
            return True
        try:
            for made in self._wishes(requests[0], plans).spent():
                if self._find_place(requests[1:], [*plans, *made], tries):
                    return True
                if next(tries, None) is None:
                    return False
        except ModelError:
            return self._find_place(requests[1:], plans, tries)
        except (Unsatisfiable, PolicyError):
            pass
        return False

    # One component.

    def _refused(self, refused: Unsatisfiable, request: Request, others: Group, wishes: Wishes) -> Unsatisfiable:
        """Return the refusal of a component, with what those beside it take and what would do, where there are any."""
        plans = [one.plan for one in others]
        if request.component is None or not (plans or request.policy.components):
            return refused
        tried: list[str] = []
        if self.advise and not wishes.has_choice:
            tried = list(joint_suggestions(self.host, request, request.tree(), others))
        return refused_beside(refused, request.component, plans, tried)

    def _group(self, request: Request, others: Group, wishes: Wishes, *, advise: bool) -> Group:
        granting = wishes.grant(advise=advise)
        moved = self._moved(request, others, granting) if others else ()
        made: list[Planned] = []
        for plan in granting.plans:
            after = starts_after(plan, [one.plan for one in others]) if others else ()
            plan = replace(plan, warnings=(*plan.warnings, *moved), starts_after=after)
            resolved = replace(granting.policy, component=plan.component, replicas=1)
            reserved = reserved_bytes(one.plan for one in (*others, *made))
            made.append(Planned(request, granting.tree, plan, reserved, resolved))
        return tuple(made)

    def _moved(self, request: Request, others: Group, granting: Granting) -> list[Diagnostic]:
        """Return a warning (DP513) where a component is on a later term for the wishes of those before it."""
        own = [one.plan for one in others if one.request.policy == request.policy and one.plan.granted is not None]
        trace = granting.plans[0].trace
        term = 0 if trace is None else len(trace.terms) - 1
        if not own or not term:
            return []
        earlier = replace(request.resolved, prefer=request.resolved.prefer[:term])
        beside = reserved_bytes(one.plan for one in others if one.plan not in own)
        try:
            Wishes(earlier, request.models(), self.host, request.target, beside).grant(advise=False)
        except (Unsatisfiable, PolicyError):
            return []
        names = " and ".join(f"`{plan.component}`" for plan in own)
        message = (
            f"component `{request.component}` is on `{request.resolved.prefer[term]}`, and would be on an earlier term "
            f"without what {names} {'was' if len(own) == 1 else 'were'} granted before it"
        )
        hint = "write it first, or leave the others less room: a smaller `max` of `context`, or a `share`"
        return [Diagnostic("DP513", message, help=hint, severity="warning")]
