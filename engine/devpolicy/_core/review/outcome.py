"""The outcome of a policy on one host: a plan, a device, or a refusal, for one component or for all.

Owns the one way in which tests, differences and properties call the engine, and what they read from its result.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from devpolicy._core.device import Device
from devpolicy._core.errors import DevPolicyError, PolicyError, Unsatisfiable
from devpolicy._core.language.layers import in_order, matching_entries, source
from devpolicy._core.language.policy import ResolvedPolicy, apply_overlays
from devpolicy._core.language.profiles import with_profiles
from devpolicy._core.memory.budgets import accelerator_of
from devpolicy._core.placement.choice import choose
from devpolicy._core.placement.joint import one_piece
from devpolicy._core.placement.quantized import tree_of
from devpolicy._core.review.recount import Budgets, recount
from devpolicy._core.verbs.joint import JointPlanner, Planned, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.errors import Diagnostic
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import DeviceSelector, Policy, Wish
    from devpolicy._core.memory.budgets import DeviceBudget
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.plan import Plan


@dataclass(frozen=True)
class Part:
    """One plan with what it was made from: the policy resolved for the component on this host, and the model.

    What it holds is counted once, however many components beside it ask.
    """

    policy: ResolvedPolicy
    tree: ModelTree
    plan: Plan
    host: Host

    @cached_property
    def budgets(self) -> Mapping[str, DeviceBudget]:
        """What the policy allows the component of each device."""
        return Budgets(self.policy, self.host)

    @cached_property
    def bytes(self) -> Mapping[str, int]:
        """What each device holds of it, counted anew."""
        held = tree_of(self.plan, self.policy, self.tree, self.host)
        loads = recount(self.plan, held, self.policy, self.budgets)
        return {device: load.total for device, load in loads.items()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """An outcome: `plan` where there is a model, `device` where the host was not refused, else `refusal`."""

    written: Policy
    """The policy as written, with its overrides."""
    policy: ResolvedPolicy
    """What it says of the component on this host."""
    tree: ModelTree | None
    host: Host
    component: str | None = None
    plan: Plan | None = None
    device: ComponentDevice | None = None
    refusal: Diagnostic | None = None
    terms: tuple[tuple[str, str], ...] = ()
    """Each term of `prefer` that was tried, with its outcome."""
    before: tuple[Part, ...] = ()
    """The components that were planned before, which take memory too."""
    relax: tuple[Wish, ...] = ()
    """The order in which its wishes give way; empty is the default order."""
    given: ModelTree | None = None
    """The model that was given, if it is not the policy's own."""
    again: JointPlanner | None = field(default=None, compare=False, repr=False)
    """Where it can be planned once more: those beside it are planned there as well, each of them once."""

    @property
    def own(self) -> Part | None:
        """The plan with what it was made from."""
        return None if self.plan is None or self.tree is None else Part(self.policy, self.tree, self.plan, self.host)

    def replanned(self) -> Outcome:
        """Return the outcome of asking the same once more."""
        joint = JointPlanner(self.host, advise=False) if self.again is None else self.again
        return _plan_outcome(joint, _Parts(self.host), self.written, self.given, component=self.component, profile=None)

    def fired(self) -> set[str]:
        """Return the names of what decided something: rules, also one that refuses, `overflow`, and `prefer TERM`."""
        tried = term_names(self.written, self.component, [term for term, _ in self.terms])
        names = {name for name, (_, told) in zip(tried, self.terms, strict=True) if told == "fits"}
        if self.refusal is not None:
            return names | {rule.name for rule in self.policy.rules if rule.place and rule.place == self.refusal.place}
        if self.plan is not None:
            decided = {unit.rule for unit in self.plan.placements.values()} - {"prefer"}
            names |= {overflow_name(self.written, self.component) if name == "overflow" else name for name in decided}
            # What only holds modules together is named by no placement: it decides wherever it matches.
            unmatched = {warning.place for warning in self.plan.warnings if warning.code == "DP501"}
            bare = [rule for rule in self.policy.rules if rule.together and not rule.prefer]
            names |= {rule.name for rule in bare if rule.place not in unmatched}
        return names


def term_names(policy: Policy, component: str | None, terms: Sequence[object]) -> list[str]:
    """Return what the terms of `prefer`, from the first, are called in reports: `component.NAME prefer cuda`.

    A device table and its type look alike: the later of two has its number.
    """
    own = next((entry.name for entry in matching_entries(policy.components, component) if entry.prefer), None)
    head = "prefer" if own is None else f"component.{own} prefer"
    texts = list(map(str, terms))
    return [f"{head} {text}" + f" (no. {at + 1})" * (text in texts[:at]) for at, text in enumerate(texts)]


def overflow_name(policy: Policy, component: str | None) -> str:
    """Return what `overflow` is called in reports."""
    own = next((entry.name for entry in matching_entries(policy.components, component) if entry.overflow), None)
    return "overflow" if own is None else f"component.{own} overflow"


def components_of(policy: Policy) -> list[str]:
    """Return the components whose model or size the policy states, in planning order."""
    return [name for name in in_order(policy) if source(policy, name) is not None]


def has_model(policy: Policy, models: Sequence[ModelTree | None]) -> bool:
    """Whether anything is placed, for `models` or by the policy's own components: else only a device is chosen."""
    return any(tree is not None for tree in models) or any(map(components_of, variants_of(policy)))


def variants_of(policy: Policy, *, as_asked: bool = False) -> list[Policy]:
    """Return a policy without profiles, and with each of them: its variants on all hosts.

    `as_asked` skips profiles that are neither selected nor apply by themselves.
    """
    asked = () if policy.overrides.profile is None else (policy.overrides.profile,)
    found: list[Policy] = []
    for names in ((), *((one.name,) for one in policy.profiles if one.when is not None or not as_asked)):
        try:
            found.append(with_profiles(policy, tuple(dict.fromkeys((*names, *asked)))))
        except PolicyError:
            continue  # it is reported when the profile is selected
    return found


def plan_outcomes(
    policy: Policy,
    tree: ModelTree | None,
    host: Host,
    *,
    component: str | None = None,
    profile: str | None = None,
    advise: bool = False,
) -> list[Outcome]:
    """Return the outcomes of a policy: of one component, or of all if neither a component nor a model is named.

    All of them are planned jointly, in the policy's order; behind one that is refused there are no more.
    """
    with suppress(Unsatisfiable, PolicyError):  # `_plan_outcome` reports it
        policy, profile = apply_overlays(policy.with_overrides(profile=profile), host), None
    names: list[str | None] = [component]
    if tree is None and component is None:
        names = [*components_of(policy)] or names
    found: list[Outcome] = []
    # Of all of them, so that each is planned once.
    joint, again, parts = JointPlanner(host, advise=advise), JointPlanner(host, advise=advise), _Parts(host)
    for name in names:
        outcome = _plan_outcome(joint, parts, policy, tree, component=name, profile=profile)
        found.append(replace(outcome, again=again))
        if outcome.refusal is not None:
            break
        copies = [str(one.plan.component) for one in joint.placed if name is not None and one.request.component == name]
        for copy in copies[1:]:
            outcome = _plan_outcome(joint, parts, policy, tree, component=copy, profile=profile)
            found.append(replace(outcome, again=again))
    return found


def plan_outcome(
    policy: Policy,
    tree: ModelTree | None,
    host: Host,
    *,
    component: str | None = None,
    profile: str | None = None,
    advise: bool = False,
) -> Outcome:
    """Return the outcome of one component, beside those that the policy writes before it.

    Profiles apply by themselves, and `profile` on demand; no environment is read. A refusal is an answer, also that of
    a rule that names a tensor (DP203).
    """
    return _plan_outcome(
        JointPlanner(host, advise=advise), _Parts(host), policy, tree, component=component, profile=profile
    )


def _plan_outcome(
    joint: JointPlanner,
    parts: _Parts,
    policy: Policy,
    tree: ModelTree | None,
    *,
    component: str | None,
    profile: str | None,
) -> Outcome:
    """Return the outcome of one component; `joint` has planned at most those that come before it."""
    host, meant = joint.host, ResolvedPolicy()
    try:
        policy = apply_overlays(policy.with_overrides(profile=profile), host)
        request = Request(policy, component, tree)
        meant = request.resolved.for_host(host)
        if not request.has_size:
            choice = choose(request.resolved, host)
            return Outcome(policy, meant, None, host, component, device=choice.device, terms=choice.terms)
        placed = joint.place(request)
        others = joint.placed[: joint.placed.index(placed)]
    except (Unsatisfiable, PolicyError) as refused:
        return Outcome(policy, meant, tree, host, component, refusal=_first(refused), given=tree)
    plan, meant = placed.plan, placed.resolved.for_host(host)
    before = tuple(map(parts.of, others))
    terms = plan.trace.terms if plan.trace else ()
    tree_of_it = parts.of(placed).tree
    made = plan, plan.device, None, terms, before
    return Outcome(policy, meant, tree_of_it, host, component, *made, relax=request.resolved.relax, given=tree)


class _Parts:
    """The parts of what was placed on a host, each made once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[int, tuple[Planned, Part]] = {}

    def of(self, placed: Planned) -> Part:
        """Return the part that a placed component is."""
        if id(placed) not in self._known:
            self._known[id(placed)] = placed, self._make(placed)  # the first is kept, so that its id stays its own
        return self._known[id(placed)][1]

    def _make(self, placed: Planned) -> Part:
        policy, tree = placed.resolved, placed.tree
        if tree is None:
            policy, tree = one_piece(policy)
        return Part(policy.for_host(self._host), tree, placed.plan, self._host)


def is_meant(device: str, term: DeviceSelector, host: Host) -> bool:
    """Whether a device, by its name in a plan for this host, is one that a term names."""
    accelerator = accelerator_of(device, host)
    if accelerator is not None:
        return term.names(accelerator)
    # The CPU, the disk, or what no host should be given.
    named = Device.from_str(device)
    return named.type.value == term.type and term.device_class is None and term.id in (None, named.id or 0)


def _first(refused: DevPolicyError) -> Diagnostic:
    return refused.diagnostics[0]
