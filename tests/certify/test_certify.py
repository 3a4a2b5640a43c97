"""Certificates: a bound that is below every plan, and that alters none."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import block_trees, small_llama

from devpolicy import Accelerator, DevPolicyError, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy._core.certify import Certificate, certify
from devpolicy._core.certify.bound import BY_HAND, by_hand, open_problem
from devpolicy._core.certify.relaxation import relaxations
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Workload
from devpolicy._core.placement.planner import make_plan, place_model

CARDS = st.tuples(st.sampled_from((0, 60, 120, 250, 400, 900)), st.sampled_from((10**7, 2 * 10**7, 10**8)))
Cards = list[tuple[int, int]]


def _world(cards: Cards, cpu: int = 10**6) -> tuple[ResolvedPolicy, Host]:
    memory = tuple(
        MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, (budget, _) in enumerate(cards)
    )
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),),
        overflow=(DeviceSelector("cpu"), DeviceSelector("disk")),
        split="fastest",
        memory=(*memory, MemoryRule(DeviceSelector("cpu"), "total", Amount(cpu))),
        disk_path="offload",
        workload=Workload(context=2),
    )
    devices = [Accelerator("cuda", memory="1 GiB", bandwidth=rate) for _, rate in cards]
    return policy, Host(devices, memory="64 GiB", disk="1 TiB")


def _planned(tree: ModelTree, cards: Cards, cpu: int = 10**6) -> Plan | None:
    policy, host = _world(cards, cpu)
    try:
        return make_plan(policy, tree, host, advise=False)
    except Unsatisfiable:
        return None


def _certified(plan: Plan, tree: ModelTree, cards: Cards, **options: Any) -> Certificate:
    policy, host = _world(cards)
    return certify(plan, policy, tree, host, **options)


@given(block_trees(), st.lists(CARDS, min_size=1, max_size=4), st.sampled_from((40, 10**6)))
def test_no_plan_is_below_either_bound(tree: ModelTree, cards: list[tuple[int, int]], cpu: int) -> None:
    plan = _planned(tree, cards, cpu)
    if plan is None or plan.prediction is None:
        return
    each = 10**9 * 256
    policy, host = _world(cards, cpu)
    asked = list(relaxations(open_problem(place_model(policy, tree, host))))
    hand = min(bound for one in asked if (bound := by_hand(one)) is not None)
    assert hand <= (plan.prediction.ns + 4) * each
    pytest.importorskip("highspy")
    from devpolicy._core.certify.highs import least_time

    solved = min(bound for one in asked if (bound := least_time(one)) is not None)
    # HiGHS works in floating point: a millionth of a plan's time is within its tolerance.
    assert solved <= (plan.prediction.ns + 4) * each * (1 + 1e-6)


def test_a_certificate_alters_no_plan_and_is_the_same_each_time() -> None:
    cards = [(150, 10**8), (100, 10**7)]
    plan = _planned(small_llama(6), cards)
    assert plan is not None
    before = plan.to_dict()
    first, second = _certified(plan, small_llama(6), cards), _certified(plan, small_llama(6), cards)
    assert first == second
    assert plan.to_dict() == before
    assert 0 <= first.gap < 1
    assert first.bound_ns <= first.plan_ns == plan.prediction.ns  # type: ignore[union-attr]


def test_without_highspy_the_bound_is_labelled_as_a_looser_one() -> None:
    plan = _planned(small_llama(6), [(150, 10**8)])
    assert plan is not None
    made = _certified(plan, small_llama(6), [(150, 10**8)], solver=False)
    assert made.by == BY_HAND
    assert 0 < made.bound_ns <= made.plan_ns
    assert made.to_dict()["by"] == BY_HAND


def test_a_model_on_one_gpu_is_certified_to_the_nanosecond() -> None:
    plan = _planned(small_llama(), [(400, 10**8)])
    assert plan is not None
    assert _certified(plan, small_llama(), [(400, 10**8)], solver=False).gap == 0


def test_a_plan_from_json_has_the_same_certificate() -> None:
    cards = [(150, 10**8), (100, 10**7)]
    plan = _planned(small_llama(6), cards)
    assert plan is not None
    read = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert _certified(read, small_llama(6), cards) == _certified(plan, small_llama(6), cards)


def test_a_pickled_plan_holds_no_search() -> None:
    policy = Policy.parse('prefer = "cuda"\noverflow = "cpu"').top
    plan = make_plan(policy, ModelTree.load("llama-3.1-405b"), Host.load("8x80gb"))
    assert len(pickle.dumps(plan)) < 3 * len(pickle.dumps(replace(plan, trace=None)))
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_plan_that_was_not_chosen_by_time_has_no_certificate() -> None:
    plan = _planned(small_llama(), [(400, 10**8)])
    assert plan is not None
    with pytest.raises(DevPolicyError, match="can be certified"):
        _certified(replace(plan, prediction=None), small_llama(), [(400, 10**8)])


def test_the_certificate_of_another_plan_is_refused() -> None:
    plan = _planned(small_llama(), [(400, 10**8)])
    assert plan is not None
    with pytest.raises(DevPolicyError, match="now give another plan"):
        _certified(plan, small_llama(6), [(400, 10**8)])


def test_the_solver_prints_nothing():
    """HiGHS greets on standard output, where JSON is, as it is made and before it can be told not to."""
    pytest.importorskip("highspy")
    code = (
        "from devpolicy._core.certify.highs import Model; made = Model(); one = made.variable(1, 1, whole=True); "
        "made.row(1, 1, {one: 1.0}); print(made.bound())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1.0\n", "")
