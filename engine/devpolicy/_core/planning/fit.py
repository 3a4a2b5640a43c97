"""Can it run here, and how: one model in one scheme on one host, with the longest context for each batch.

Owns the verdict and the search for the longest context. Every figure is that of a plan: the context that is found fits,
and one step more does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from devpolicy._core.abilities import target_of
from devpolicy._core.cost.prediction import Prediction
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ContextRange, ResolvedPolicy
from devpolicy._core.memory.sizing import DEFAULT_CONTEXT
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.assemble import PlacedModel, plan_of, predict
from devpolicy._core.placement.context import select_devices
from devpolicy._core.placement.plan import Placement, Plan
from devpolicy._core.placement.planner import place_model
from devpolicy._core.planning.estimate import Filling
from devpolicy._core.planning.search import STEP, Contexts, largest

BATCHES = (1, 4, 16)
"""The batches that are asked for, unless others are."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict on one model in one scheme on one host."""

    model: str
    quantization: str
    host: str
    plan: Plan | None = None
    """With as many tokens as the policy asks for at least."""
    refused: Diagnostic | None = None
    contexts: tuple[tuple[int, int | None], ...] = ()
    """For each batch the most tokens; `None` where not even the fewest fit."""
    prediction: Prediction | None = None
    """The predicted time of the plan, also where it was not chosen by it."""
    stored: str | None = None
    """How its checkpoint is quantised; then it stays so in each scheme that is asked for. `None` where it is not."""

    @property
    def devices(self) -> list[str]:
        """The devices that execute the model."""
        return [] if self.plan is None else list(dict.fromkeys(str(unit.runs_on) for unit in self._units))

    @property
    def held(self) -> str:
        """How the weights are held, in a word."""
        if self.stored is None:
            return self.quantization
        return "dequantised" if self.plan is not None and self.plan.loading.scheme == "none" else self.stored

    @property
    def left(self) -> int:
        """Bytes that are left on the devices that execute it."""
        return 0 if self.plan is None else sum(self.plan.ledger[device].free for device in self.devices)

    @property
    def kept(self) -> dict[str, int]:
        """Bytes that are kept elsewhere, by place."""
        away = [unit for unit in self._units if unit.device != unit.runs_on]
        places = sorted({str(unit.device) for unit in away})
        return {place: sum(unit.bytes for unit in away if str(unit.device) == place) for place in places}

    @property
    def _units(self) -> list[Placement]:
        if self.plan is None:
            return []
        order = {device: number for number, device in enumerate(self.plan.ledger)}
        return sorted(self.plan.placements.values(), key=lambda unit: order[str(unit.runs_on)])


def fit(
    policy: ResolvedPolicy,
    tree: ModelTree,
    host: Host,
    *,
    quantization: str | None = None,
    target: str | None = None,
    batches: Sequence[int] = BATCHES,
) -> Fit:
    """Return the verdict on a model. `quantization` replaces the policy's. Raises `PolicyError`."""
    if quantization is not None:
        policy = replace(policy, loading=replace(policy.loading, quantization=(quantization,)))
    word = next(iter(policy.loading.quantization), "none")
    asked = policy.workload.context
    least = asked.min if isinstance(asked, ContextRange) else asked
    question = _Question(replace(policy, relax=(), replicas=1), tree, host, target)
    made = question.plan(least, policy.workload.batch)
    if isinstance(made, Diagnostic):
        return Fit(tree.name or "", word, host.name or "", refused=made, stored=stored_as(tree))
    placed, found = made
    # On the term that it is planned for: on another one it would be another answer.
    term = policy.prefer[len(found.trace.terms) - 1 if found.trace else 0]
    question = replace(question, policy=replace(question.policy, prefer=(term,)))
    contexts = _contexts(tree, asked)
    longest = tuple((batch, question.longest(found, contexts, batch)) for batch in batches)
    predicted = predict(placed)
    return Fit(tree.name or "", word, host.name or "", found, None, longest, predicted, stored_as(tree))


def stored_as(tree: ModelTree) -> str | None:
    """Return how a model's checkpoint is quantised, in a word; `None` where it is not."""
    return None if tree.quantization is None else tree.quantization.scheme or tree.quantization.method


def _contexts(tree: ModelTree, asked: int | ContextRange | None) -> Contexts:
    """Return the numbers of tokens that are tried: up to the model's limit, and what the policy allows."""
    limits = [tree.context, asked.max if isinstance(asked, ContextRange) else None]
    most = min((limit for limit in limits if limit is not None), default=DEFAULT_CONTEXT)
    least = asked.min if isinstance(asked, ContextRange) else STEP
    return Contexts(min(least, most), most)


@dataclass(frozen=True, slots=True)
class _Question:
    policy: ResolvedPolicy
    tree: ModelTree
    host: Host
    target: str | None

    def plan(self, context: int | None, batch: int) -> tuple[PlacedModel, Plan] | Diagnostic:
        """Return the placement for so many tokens of each of so many sequences with its plan, or why there is none."""
        workload = replace(self.policy.workload, context=context, batch=batch)
        try:
            placed = place_model(replace(self.policy, workload=workload), self.tree, self.host, target=self.target)
            return placed, plan_of(placed)
        except Unsatisfiable as refused:
            return refused.diagnostics[0]

    def longest(self, made: Plan, contexts: Contexts, batch: int) -> int | None:
        """Return the most tokens that fit, given a plan of the model."""
        selection = select_devices(self.policy.prefer[0], self.policy, self.host)
        workload = replace(self.policy.workload, batch=batch)
        rooms = {str(one): one.budget for one in selection.devices}
        used = {str(unit.runs_on) for unit in made.placements.values()}
        alone = rooms.get(min(used), 0) if len(used) == 1 else 0
        filling = Filling(made, self.tree, workload, list(rooms.values()), alone)
        # Rules may use other devices, `reserve` other figures, and overflow needs fewer bytes: then sums prove nothing.
        reserves = any(rule.activations is not None or rule.kv_cache is not None for rule in self.policy.memory)
        proves = not (filling.streams or reserves or self.policy.rules or self.policy.overflow)
        proves = proves and target_of(made.target).abilities.cache != "engine"  # which holds more and less than a tree

        def fits(number: int) -> bool:
            held = filling.holds(contexts[number]) if proves else None
            return held if held is not None else isinstance(self.plan(contexts[number], batch), tuple)

        # The fewest may not fit either: one below them stands for none.
        found = largest(-1, len(contexts) - 1, fits, filling.most(contexts))
        return None if found < 0 else contexts[found]
