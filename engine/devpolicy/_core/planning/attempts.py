"""The attempts of one component on one host: plans with every wish fixed, each made once.

Owns what an attempt is made of, what it keeps away, and which failures no choice would mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ContextRange, ResolvedPolicy
from devpolicy._core.language.wishes import WISHES, Wish, rooms_of
from devpolicy._core.memory.sizing import DEFAULT_CONTEXT
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.context import select_devices
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.planner import consumer_of, make_plan
from devpolicy._core.placement.quantized import is_held_alike
from devpolicy._core.planning.estimate import Filling
from devpolicy._core.planning.replicas import Group, MakePlan, plan_copies
from devpolicy._core.planning.search import Away, Candidate, Choice, Contexts, Options

_AT_ONCE = frozenset({"DP304", "DP305", "DP306", "DP401"})
"""What no wish decides: what a host must have, classes that disagree, ties."""
PASSED_OVER = "DP307"

Accept = Callable[[Group], str]
"""Returns why plans cannot be granted beside what comes later, empty where they can."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models among which a component chooses, each read when it is first looked at."""

    names: tuple[str | None, ...]
    read: Callable[[int], ModelTree | None]
    """Raises `ModelError`."""


@dataclass
class Attempts:
    """The attempts of one component on one host, beside what others have reserved."""

    policy: ResolvedPolicy
    models: Models
    host: Host
    target: str | None = None
    reserved: Mapping[str, int] = field(default_factory=dict)
    accept: Accept | None = None
    made: dict[Choice, Group | Diagnostic] = field(default_factory=dict)
    """Every attempt, with its plans or why it was refused."""
    passed_over: dict[int, Diagnostic] = field(default_factory=dict)
    """Models that are not tried, by their number."""

    @cached_property
    def rooms(self) -> frozenset[Wish]:
        """The wishes that are written with room."""
        return frozenset(rooms_of(self.policy, self.models.names))

    @property
    def relax(self) -> tuple[Wish, ...]:
        """Every wish, the first to give way first; what is left out has no room, but for `prefer`, which is last."""
        written = self.policy.relax or WISHES
        last: tuple[Wish, ...] = () if "prefer" in written else ("prefer",)
        unwritten: tuple[Wish, ...] = tuple(wish for wish in WISHES if wish not in (*written, "prefer"))
        return (*unwritten, *written, *last)

    @cached_property
    def options(self) -> Options:
        """What a search chooses from. Raises `Unsatisfiable` (DP307) where every model is passed over."""
        policy, contexts = self.policy, dict[int, Contexts]()
        if isinstance(policy.workload.context, ContextRange):
            for number in range(len(self.models.names)):
                found = self._contexts(number, policy.workload.context)
                if isinstance(found, Diagnostic):
                    self.passed_over[number] = found
                else:
                    contexts[number] = found
            if not contexts:
                raise Unsatisfiable(list(self.passed_over.values()))
        candidates = [
            Candidate(term, scheme, model)
            for term in range(len(policy.prefer))
            for model in range(len(self.models.names))
            for scheme in range(max(1, len(policy.loading.quantization)))
            if model not in self.passed_over
        ]
        return Options(candidates, contexts, "overflow" in self.rooms, self.relax)

    def _contexts(self, number: int, asked: ContextRange) -> Contexts | Diagnostic:
        tree = self.models.read(number)
        limit = None if tree is None else tree.context
        if limit is not None and limit < asked.min:
            message = f"`{self.models.names[number]}` takes {limit:,} tokens, and `context` is {asked.min:,} at least"
            return Diagnostic(PASSED_OVER, message, help="lower `min`, or name a model that takes more")
        most = asked.max if asked.max is not None else limit or max(asked.min, DEFAULT_CONTEXT)
        return Contexts(asked.min, most if limit is None else min(most, limit))

    def fixed(self, choice: Choice) -> ResolvedPolicy:
        """Return the policy with every wish fixed: written so, it has the same plan."""
        policy, one = self.policy, choice.candidate
        loading, workload = policy.loading, policy.workload
        if len(loading.quantization) > 1:
            loading = replace(loading, quantization=(loading.quantization[one.quantization],))
        if choice.context is not None:
            workload = replace(workload, context=choice.context)
        fixed = replace(
            policy,
            prefer=(policy.prefer[one.prefer],),
            loading=loading,
            workload=workload,
            relax=(),
            several_models=len(self.models.names) > 1,
        )
        if choice.overflow or "overflow" not in self.rooms:
            return fixed
        rules = tuple(replace(rule, overflow=()) if rule.overflow else rule for rule in policy.rules)
        return replace(fixed, overflow=(), rules=rules)

    def attempt(self, choice: Choice) -> Group | Diagnostic:
        """Return the plans of a choice, or why it is refused. Raises for what no wish decides, and `ModelError`."""
        if choice not in self.made:
            self.made[choice] = self._make(choice)
        return self.made[choice]

    def scheme(self, one: Candidate) -> int:
        """Return the number of the first scheme that holds the model just as that of a candidate does, on its term."""
        tree, asked = self.models.read(one.model), self.fixed(Choice(one, None, overflow=True))
        if tree is None:
            return one.quantization
        consumer, term = consumer_of(self.policy, tree, self.target), self.policy.prefer[one.prefer].type
        for number in range(one.quantization):
            earlier = self.fixed(Choice(replace(one, quantization=number), None, overflow=True))
            if is_held_alike(term, earlier, asked, tree, self.host, consumer):
                return number
        return one.quantization

    def _make(self, choice: Choice) -> Group | Diagnostic:
        one, policy = choice.candidate, self.fixed(choice)
        earlier = self.scheme(one)
        if earlier != one.quantization:
            same = self.policy.loading.quantization[earlier]
            return Diagnostic(PASSED_OVER, f"here it holds the model as `{same}` does")
        try:
            plans = plan_copies(policy, self.make_plan(choice, advise=False))
        except Unsatisfiable as refused:
            if refused.diagnostics[0].code in _AT_ONCE:
                raise
            return _reason(refused.diagnostics[0], str(policy.prefer[0]))
        why = "" if self.accept is None else self.accept(plans)
        return Diagnostic("DP301", why) if why else plans

    def make_plan(self, choice: Choice, *, advise: bool) -> MakePlan:
        """Return what plans one copy of the model that is chosen."""
        tree = self.models.read(choice.candidate.model)

        def make(policy: ResolvedPolicy, beside: Mapping[str, int]) -> Plan:
            names = dict.fromkeys([*self.reserved, *beside])
            total = {name: self.reserved.get(name, 0) + beside.get(name, 0) for name in names}
            return make_plan(policy, tree, self.host, target=self.target, reserved=total, advise=advise)

        return make

    def away(self, choice: Choice) -> Away | None:
        """Return what a choice keeps away, `None` where it is refused."""
        made = self.attempt(choice)
        return self.kept(made) if isinstance(made, tuple) else None

    def kept(self, plans: Group) -> Away:
        """Return the bytes that `overflow` keeps away, at its last place first."""
        spilling = {"overflow", *(rule.name for rule in self.policy.rules if rule.overflow)}
        units = [unit for plan in plans for unit in plan.placements.values() if unit.rule in spilling]
        # What the engine itself keeps, or streams, is no unit's.
        of_engine = sum(
            sum(unit.bytes for unit in plan.placements.values()) if plan.streaming else plan.kept_by_engine
            for plan in plans
        )
        return tuple(
            sum(unit.bytes for unit in units if unit.device.type.value == place) + of_engine * (place == "cpu")
            for place in reversed(self.places)
        )

    @cached_property
    def places(self) -> list[str]:
        """Where weights may be kept that do not fit, in the policy's order."""
        terms = [*self.policy.overflow, *(term for rule in self.policy.rules for term in rule.overflow)]
        return list(dict.fromkeys(term.type for term in terms))

    def guess(self, one: Candidate) -> int | None:
        """Return about which number of tokens a candidate takes, where nothing is kept away and an attempt is there."""
        plans = (plans for choice, plans in self.made.items() if choice.candidate == one and isinstance(plans, tuple))
        made, tree = next(plans, None), self.models.read(one.model)
        if made is None or tree is None or any(self.kept(made)):
            return None
        selection = select_devices(self.policy.prefer[one.prefer], self.policy, self.host)
        rooms = [budget.with_reserved(self.reserved).budget for budget in selection.devices]
        rooms = [max(rooms, default=0)] if self.policy.split == "never" else rooms
        return Filling(made[0], tree, self.policy.workload, rooms).most(self.options.contexts[one.model])


def _reason(refused: Diagnostic, term: str) -> Diagnostic:
    """Return a refusal on one term with what stood in the way for its message."""
    head = f"`{term}`: "
    note = next((note.removeprefix(head) for note in refused.notes if note.startswith(head)), refused.message)
    return Diagnostic(refused.code, note, refused.place)
