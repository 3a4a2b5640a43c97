"""Certificates: a bound that is below every plan, and that alters none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import block_trees, small_llama

from devpolicy import Accelerator, DevPolicyError, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy._core.certify import certify
from devpolicy._core.certify.bound import BY_HAND, by_hand
from devpolicy._core.certify.relaxation import relaxations
from devpolicy._core.language.policy import Amount, MemoryRule, Term, Workload
from devpolicy._core.placement.planner import make_plan

CARDS = st.tuples(st.sampled_from((0, 60, 120, 250, 400, 900)), st.sampled_from((10**7, 2 * 10**7, 10**8)))


def _planned(tree: ModelTree, cards: list[tuple[int, int]], cpu: int = 10**6) -> Plan | None:
    memory = tuple(
        MemoryRule(Term("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, (budget, _) in enumerate(cards)
    )
    policy = Policy(
        prefer=(Term("cuda"),),
        overflow=(Term("cpu"), Term("disk")),
        split="fastest",
        memory=(*memory, MemoryRule(Term("cpu"), "total", Amount(cpu))),
        disk_path="offload",
        workload=Workload(context=2),
    )
    devices = [Accelerator("cuda", memory="1 GiB", bandwidth=rate) for _, rate in cards]
    try:
        return make_plan(policy, tree, Host(devices, memory="64 GiB", disk="1 TiB"), advise=False)
    except Unsatisfiable:
        return None


@given(block_trees(), st.lists(CARDS, min_size=1, max_size=4), st.sampled_from((40, 10**6)))
def test_no_plan_is_below_either_bound(tree: ModelTree, cards: list[tuple[int, int]], cpu: int) -> None:
    plan = _planned(tree, cards, cpu)
    if plan is None or plan.prediction is None or plan.trace is None or plan.trace.problem is None:
        return
    each = 10**9 * 256
    asked = list(relaxations(plan.trace.problem))
    hand = min(bound for one in asked if (bound := by_hand(one)) is not None)
    assert hand <= (plan.prediction.ns + 4) * each
    pytest.importorskip("highspy")
    from devpolicy._core.certify.highs import least_time

    solved = min(bound for one in asked if (bound := least_time(one)) is not None)
    # HiGHS works in floating point: a millionth of a plan's time is within its tolerance.
    assert solved <= (plan.prediction.ns + 4) * each * (1 + 1e-6)


def test_a_certificate_alters_no_plan_and_is_the_same_each_time() -> None:
    plan = _planned(small_llama(6), [(150, 10**8), (100, 10**7)])
    assert plan is not None
    before = plan.to_dict()
    first, second = certify(plan), certify(plan)
    assert first == second
    assert plan.to_dict() == before
    assert 0 <= first.gap < 1
    assert first.bound_ns <= first.plan_ns == plan.prediction.ns  # type: ignore[union-attr]


def test_without_highspy_the_bound_is_labelled_as_a_looser_one() -> None:
    plan = _planned(small_llama(6), [(150, 10**8)])
    assert plan is not None
    made = certify(plan, solver=False)
    assert made.by == BY_HAND
    assert 0 < made.bound_ns <= made.plan_ns
    assert made.to_dict()["by"] == BY_HAND


def test_a_model_on_one_gpu_is_certified_to_the_nanosecond() -> None:
    plan = _planned(small_llama(), [(400, 10**8)])
    assert plan is not None
    assert certify(plan, solver=False).gap == 0


def test_a_plan_that_was_not_chosen_by_time_or_was_read_from_json_has_no_certificate() -> None:
    plan = _planned(small_llama(), [(400, 10**8)])
    assert plan is not None
    for other in (Plan.from_dict(plan.to_dict()), replace(plan, prediction=None)):
        with pytest.raises(DevPolicyError, match="can be certified"):
            certify(other)
