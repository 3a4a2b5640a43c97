"""What a policy answers on one host: a plan, a device, or a refusal.

Owns the one way in which tests, differences and properties ask the engine, and what they read from its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy.errors import DevPolicyError, PolicyError, Unsatisfiable
from devpolicy.placement.choice import choose
from devpolicy.placement.planner import make_plan

if TYPE_CHECKING:
    from devpolicy.device import ComponentDevice
    from devpolicy.errors import Diagnostic
    from devpolicy.host import Host
    from devpolicy.language.policy import Policy, Term
    from devpolicy.model import ModelTree
    from devpolicy.placement.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer: `plan` where a model was given, `device` where the host was not refused, else `refusal`."""

    policy: Policy
    tree: ModelTree | None
    host: Host
    plan: Plan | None = None
    device: ComponentDevice | None = None
    refusal: Diagnostic | None = None
    terms: tuple[tuple[str, str], ...] = ()
    """Each term of `prefer` that was tried, with its outcome."""

    @property
    def served(self) -> str | None:
        """The term of `prefer` that serves, `None` where the host is refused."""
        return next((term for term, outcome in self.terms if outcome == "serves"), None)

    def fired(self) -> set[str]:
        """Return the names of what decided something: rules, also one that refuses, `overflow`, and `prefer TERM`."""
        names = {f"prefer {term}" for term, outcome in self.terms if outcome == "serves"}
        if self.refusal is not None:
            return names | {rule.name for rule in self.policy.rules if rule.place and rule.place == self.refusal.place}
        if self.plan is not None:
            names |= {unit.rule for unit in self.plan.placements.values()} - {"prefer"}
            # What only holds modules together is named by no placement: it decides wherever it matches.
            unmatched = {warning.place for warning in self.plan.warnings if warning.code == "DP501"}
            bare = [rule for rule in self.policy.rules if rule.together and not rule.prefer]
            names |= {rule.name for rule in bare if rule.place not in unmatched}
        return names


def ask(policy: Policy, tree: ModelTree | None, host: Host, *, advise: bool = False) -> Outcome:
    """Return what a policy answers. A refusal is an answer, also that of a rule that names a tensor (DP203)."""
    try:
        if tree is None:
            choice = choose(policy, host, target="hf")
            return Outcome(policy, None, host, device=choice.device, terms=choice.terms)
        plan = make_plan(policy, tree, host, advise=advise)
    except (Unsatisfiable, PolicyError) as refused:
        return Outcome(policy, tree, host, refusal=_first(refused))
    terms = tuple(plan.trace.terms) if plan.trace else ()
    return Outcome(policy, tree, host, plan, plan.device, terms=terms)


def is_meant(device: str, term: Term, host: Host) -> bool:
    """Whether a device, by its name in a plan for this host, is one that a term names."""
    kind, _, number = device.partition(":")
    named = [one for one in host.devices(kind) if one.id == int(number or 0)]
    if not named:  # the CPU, the disk, or what no host should be given
        return kind == term.type and term.cls is None and term.id in (None, int(number or 0))
    return term.names(named[0])


def _first(refused: DevPolicyError) -> Diagnostic:
    return refused.diagnostics[0]
