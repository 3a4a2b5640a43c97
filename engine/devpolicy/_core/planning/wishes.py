"""The wishes of one component on one host, and the plan that has given way least.

Owns when a search is needed, and what is made of its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.lint import lint, own_rule
from devpolicy._core.placement.plan import Trace
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.planning.attempts import Accept, Attempts, Models
from devpolicy._core.planning.reasons import granted, not_granted, refused_at_last, why_not
from devpolicy._core.planning.replicas import Group, plan_copies
from devpolicy._core.planning.search import Choice, Search

__all__ = ["Accept", "Granting", "Models", "Wishes"]


@dataclass(frozen=True, slots=True)
class Granting:
    """What a component is given: its plans, and what they were made of."""

    plans: Group
    policy: ResolvedPolicy
    """With every wish fixed, as it was granted."""
    tree: ModelTree | None


class Wishes(Attempts):
    """The wishes of one component on one host, beside what others have reserved."""

    @property
    def plain(self) -> bool:
        """Whether one plan answers: it tries the terms in their order, each with `overflow`."""
        if self.has_choice or self.accept is not None:
            return False
        return not self.rooms >= {"prefer", "overflow"} or self.relax.index("overflow") < self.relax.index("prefer")

    @property
    def has_choice(self) -> bool:
        """Whether there is more to choose than a term and what is kept elsewhere."""
        return bool(self.rooms - {"prefer", "overflow"}) or self.policy.replicas != 1

    @property
    def may_give_way(self) -> bool:
        """Whether anything less than the first choice of every wish would do on this host."""
        present = [term for term in self.policy.prefer if term.type == "cpu" or self.host.devices(term.type)]
        return bool(self.rooms - {"prefer"}) or len(present) > 1

    def grant(self, *, advise: bool = True) -> Granting:
        """Return the plan that has given way least. Raises `Unsatisfiable`, `PolicyError` and `ModelError`."""
        if self.plain:
            tree, reserved = self.models.read(0), self.reserved
            plan = make_plan(self.policy, tree, self.host, target=self.target, reserved=reserved, advise=advise)
            return Granting((plan,), self.policy, tree)
        search = Search(self.options, self.away, None if self.policy.replicas != 1 else self.guess)
        choice = search.run()
        if choice is not None:
            return self._granting(choice)
        if self.accept is not None:
            # Whatever is granted, what comes later finds no place. Its refusal says so, beside as little as can be.
            alone = replace(self, accept=None, made={})
            last = next((one for one in search.spent() if isinstance(alone.attempt(one), tuple)), None)
            return alone.grant(advise=advise) if last is None else alone._granting(last)
        raise self._refused(next(search.spent()), advise=advise)

    def spent(self) -> Iterator[Group]:
        """Yield the plans whose wishes have given way as far as they may, those first that have most."""
        for choice in Search(self.options, self.away).spent():
            plans = self.attempt(choice)
            if isinstance(plans, tuple):
                yield plans

    def _granting(self, choice: Choice) -> Granting:
        plans = self.attempt(choice)
        if not isinstance(plans, tuple):  # INVARIANT: a search returns what was attempted and fits
            raise TypeError("a choice that was refused is no result")
        policy = self.fixed(choice)
        self._check_own_rules(policy, plans)
        # What only has terms and places is told by its trace, as ever.
        tells = bool(self.policy.relax or self.rooms - {"prefer", "overflow"})
        told = tuple(not_granted(self, choice, plans)) if tells else ()
        wishes = granted(self, choice, policy, plans) if tells else None
        earlier = range(choice.candidate.prefer)
        terms = [(str(self.policy.prefer[at]), why_not(self, "prefer", at).message) for at in earlier]
        with_reasons = []
        for plan in plans:
            trace = plan.trace or Trace()
            trace = replace(trace, terms=(*terms, *trace.terms))
            with_reasons.append(replace(plan, granted=wishes, not_granted=told, trace=trace))
        return Granting(tuple(with_reasons), policy, self.models.read(choice.candidate.model))

    def _check_own_rules(self, policy: ResolvedPolicy, plans: Group) -> None:
        """Raise `PolicyError` (DP501) for a rule of the component's own that matches in none of its models."""
        if not policy.several_models:
            return
        places = {rule.place for rule in policy.rules if own_rule(rule, policy)}
        idle = {one.place: one for one in plans[0].warnings if one.code == "DP501" and one.place in places}
        for number in range(len(self.models.names)) if idle else ():
            tree = self.models.read(number)
            found = set() if tree is None else {one.place for one in lint(policy, tree) if one.code == "DP501"}
            idle = {place: one for place, one in idle.items() if place in found}
        if idle:
            raise PolicyError([_in_no_model(one) for one in idle.values()])

    def _refused(self, last: Choice, *, advise: bool) -> Unsatisfiable:
        """Return the refusal of the attempt that gave way most, on all terms."""
        fixed = self.fixed(last)
        # Copies may find places on several terms that none of these terms has for all of them.
        for terms in (self.policy.prefer, fixed.prefer):
            try:
                plan_copies(replace(fixed, prefer=terms), self.make_plan(last, advise=advise))
            except Unsatisfiable as refused:
                return refused_at_last(self, refused, last)
        # INVARIANT: a plan that tries all terms finds what a plan of one of them finds
        raise TypeError("a choice that was refused has a plan")


def _in_no_model(idle: Diagnostic) -> Diagnostic:
    name = idle.message.partition(" matches ")[0]
    return replace(idle, message=f"{name} matches nothing in any model of the component", severity="error")
