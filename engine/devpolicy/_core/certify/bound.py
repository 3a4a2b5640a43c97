"""The certificate of a plan.

Owns the bound and its comparison with the plan. Which question is asked is the matter of `relaxation`, its answer by a
solver that of `highs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devpolicy._core.certify.highs import available, least_time
from devpolicy._core.certify.relaxation import Relaxation, relaxations
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.placement.plan import Plan

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


def certify(plan: Plan, *, solver: bool | None = None) -> Certificate:
    """Return a bound on the time of every placement of whole units that the policy allows, beside the plan's.

    `solver=False` works it out by hand; by default HiGHS is asked where `highspy` is installed. Raises `DevPolicyError`
    for a plan without a prediction (only `split = "fastest"` and `overflow` go by time), and for one read from JSON.
    """
    if plan.prediction is None or plan.trace is None or plan.trace.problem is None:
        raise DevPolicyError(
            "only a plan that was made here, by its predicted time, can be certified: "
            'one with `split = "fastest"`, or of which `overflow` keeps a part'
        )
    by_solver = available() if solver is None else solver
    problem = plan.trace.problem
    each = 10**9 * problem.world.costs.tokens
    found = [_solved(one) if by_solver else by_hand(one) for one in relaxations(problem)]
    # What no main device allows is none of the answers; the plan itself is one, so there is one at least.
    bounds = [bound for bound in found if bound is not None]
    bound = min(min(bounds, default=0) // each, plan.prediction.ns)
    return Certificate(max(0, bound), plan.prediction.ns, _by() if by_solver else BY_HAND)


def _solved(relaxed: Relaxation) -> int | None:
    """Return the better of both bounds: in models of a few bytes the tolerances of a solver are large."""
    solved, worked_out = least_time(relaxed), by_hand(relaxed)
    return None if solved is None or worked_out is None else max(solved, worked_out)


def _by() -> str:
    from importlib.metadata import version

    return f"HiGHS (highspy {version('highspy')})"


def by_hand(relaxed: Relaxation) -> int | None:
    """Return the time with every byte read at the best rate, and what cannot stay brought in at the best price."""
    if not relaxed.devices:
        return None
    best = min(one.rate for one in relaxed.devices)
    reading = sum(kind.count * kind.read for kind in relaxed.kinds) * best
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
