"""The certificate of a plan.

Owns the bound and its comparison with the plan. `relaxation` states the question, and
`highs` lets a solver answer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from devpolicy._core.certify.highs import available, least_time
from devpolicy._core.certify.relaxation import Relaxation, relaxations
from devpolicy._core.cost.prediction import Prediction
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.apply_rules import Refused, apply_rules
from devpolicy._core.placement.assemble import PlacedModel, plan_of
from devpolicy._core.placement.colocate import colocate_blocks
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.planner import place_model
from devpolicy._core.placement.search import Problem

BY_HAND = "a looser bound, by hand: `highspy` is not installed"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A bound on the predicted time of a token, in nanoseconds, and how far the plan is above it."""

    bound_ns: int
    plan_ns: int
    by: str
    """Who found the bound: HiGHS with its version, or a looser one by hand."""

    @property
    def gap(self) -> float:
        """How far the plan is above the bound, as a share of the plan's time. The optimum lies in between."""
        return max(0, self.plan_ns - self.bound_ns) / self.plan_ns if self.plan_ns else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate for JSON."""
        return {"bound_ns": self.bound_ns, "plan_ns": self.plan_ns, "gap": round(self.gap, 6), "by": self.by}


def certify(
    plan: Plan,
    policy: ResolvedPolicy,
    model: ModelTree | None,
    host: Host,
    *,
    reserved: Mapping[str, int] | None = None,
    solver: bool | None = None,
) -> Certificate:
    """Return a lower bound on the time of any placement of whole units that the policy allows, beside the plan's.

    The plan may have been read from JSON; it is compared with what `policy`, `model`, `host` and the bytes that other
    components have `reserved` give. `solver=False` computes a looser bound; by default HiGHS is asked where `highspy`
    is installed. Raises `DevPolicyError` for a plan without a prediction (only `split = "fastest"` and `overflow` go
    by time), and for one that was made from something else.
    """
    if plan.prediction is None or model is None:
        raise DevPolicyError(
            "only a plan that was chosen by its predicted time can be certified: "
            'one with `split = "fastest"`, or one where `overflow` offloads a part'
        )
    placed = place_model(policy, model, host, target=plan.target, reserved=reserved)
    if plan_of(placed).digest != plan.digest:
        raise DevPolicyError("the plan cannot be certified: the policy, the model and the host now give another plan")
    by_solver = available() if solver is None else solver
    problem = open_problem(placed)
    each = 10**9 * placed.context.costs.tokens
    found = [_solved(one) if by_solver else by_hand(one) for one in relaxations(problem)]
    # What no main device allows is none of the answers; the plan itself is one, so there is one at least.
    bounds = [bound for bound in found if bound is not None]
    own = _own_ns(plan.prediction, placed)
    bound = min(min(bounds, default=0) // each, own)
    return Certificate(max(0, bound), own, _by() if by_solver else BY_HAND)


def _own_ns(prediction: Prediction, placed: PlacedModel) -> int:
    """Return the time by which a plan was chosen, without the calls of modules, which are the same in every plan."""
    context, solution = placed.context, placed.solution
    if not context.costs.first_token:
        return prediction.ns - prediction.calling_ns
    places = {at: offload.place for at, offload in solution.offloaded.items()}
    times = context.costs.times(placed.division.units, solution.device, places, context.speeds, link=context.link)
    return times.total // 10**9


def open_problem(placed: PlacedModel) -> Problem:
    """Return what the rules leave open, the choice among a rule's devices included."""
    # A bound may not count on room that is kept for loading: another placement may need less of it.
    units, context = placed.division.units, placed.context.with_room_for_loading({})
    for choose in (True, False):
        with suppress(Refused):
            assignment = apply_rules(placed.division, context, choose=choose)
            return Problem(units, colocate_blocks(placed.division, context, assignment), context)
    raise AssertionError("a model that was placed has rules that can be applied")


def _solved(relaxed: Relaxation) -> int | None:
    """Return the better of both bounds: in models of a few bytes the tolerances of a solver are large."""
    solved, worked_out = least_time(relaxed), by_hand(relaxed)
    return None if solved is None or worked_out is None else max(solved, worked_out)


def _by() -> str:
    from importlib.metadata import version

    return f"HiGHS (highspy {version('highspy')})"


def by_hand(relaxed: Relaxation) -> int | None:
    """Return the time with everything on its fastest device, and what cannot stay transferred at the best price."""
    if not relaxed.devices:
        return None
    numbers = [one.number for one in relaxed.devices]
    reading = sum(kind.count * min(kind.times[number] for number in numbers) for kind in relaxed.kinds)
    missing = sum(kind.count * kind.weights for kind in relaxed.kinds) - sum(
        max(0, one.room) for one in relaxed.devices
    )
    prices = sorted(
        (min(time for _, time in kind.away) / kind.weights, kind.count * kind.weights)
        for kind in relaxed.kinds
        if kind.away and kind.weights
    )
    streaming = 0.0
    for price, weight in prices:
        if missing <= 0:
            break
        streaming += price * min(weight, missing)
        missing -= weight
    return None if missing > 0 else reading + int(streaming * (1 - 1e-9)) + relaxed.fixed
