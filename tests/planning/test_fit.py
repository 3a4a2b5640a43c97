"""`fit`: every context that it finds is planned, and the next step is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.placement.test_leaving import EXPERTS
from tests.planning.worlds import World, wishing_worlds

from devpolicy import Host, ModelTree, Plan, Policy, PolicyError, ResolvedPolicy, Unsatisfiable
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.memory.sizing import DEFAULT_CONTEXT
from devpolicy._core.model.catalogue import model_catalogue
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.planning.fit import Fit, fit
from devpolicy._core.planning.search import STEP

POLICIES = [
    'prefer = ["cuda", "mps", "cpu"]',
    'prefer = "cuda"\nsplit = "never"',
    'prefer = "cuda"\nsplit = "balanced"\n[memory.cuda]\nreserve.activations = "2 GiB"',
    'prefer = "cuda"\noverflow = "cpu"',
    EXPERTS,
]


def _planned(policy: ResolvedPolicy, tree: ModelTree, host: Host, tokens: int, batch: int) -> Plan | None:
    workload = replace(policy.workload, context=tokens, batch=batch)
    try:
        return make_plan(replace(policy, workload=workload), tree, host, advise=False)
    except (Unsatisfiable, PolicyError):
        return None


def _check(found: Fit, policy: ResolvedPolicy, tree: ModelTree, host: Host, least: int = STEP) -> None:
    if found.plan is None:
        assert found.refused is not None
        assert not found.contexts
        return
    assert found.plan.trace is not None
    policy = replace(policy, prefer=(policy.prefer[len(found.plan.trace.terms) - 1],))
    limit = tree.context or DEFAULT_CONTEXT
    for batch, tokens in found.contexts:
        if tokens is not None:
            assert _planned(policy, tree, host, tokens, batch) is not None
        above = min(least, limit) if tokens is None else min((tokens // STEP + 1) * STEP, limit)
        if tokens is None or tokens < limit:
            assert _planned(policy, tree, host, above, batch) is None


@given(st.data())
def test_every_context_fits_and_the_next_does_not(data: st.DataObject) -> None:
    policy = Policy.parse(data.draw(st.sampled_from(POLICIES))).for_component(None)
    tree = ModelTree.load(data.draw(st.sampled_from(sorted(model_catalogue()))))
    host = Host.load(data.draw(st.sampled_from(sorted(catalogue()))))
    batches = tuple(data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=2, unique=True)))
    try:
        found = fit(policy, tree, host, batches=batches)
    except (Unsatisfiable, PolicyError):
        return
    _check(found, policy, tree, host)


@given(wishing_worlds())
def test_small_worlds_agree(world: World) -> None:
    policy = replace(world.policy, loading=replace(world.policy.loading, quantization=()), relax=())
    policy = replace(policy, workload=replace(policy.workload, context=None))
    _check(fit(policy, world.trees[0], world.host, batches=(1, 3)), policy, world.trees[0], world.host)


def test_a_range_is_searched_within_its_ends() -> None:
    policy = Policy.parse('prefer = "cuda"\n[workload]\ncontext = { min = 8192, max = 20000 }').for_component(None)
    tree = ModelTree.load("llama-3.1-8b")
    assert dict(fit(policy, tree, Host.load("1x24gb")).contexts) == {1: 20000, 4: None, 16: None}
    assert fit(policy, tree, Host.load("1x8gb")).refused is not None


@pytest.mark.parametrize(("host", "devices"), [("1x24gb", ["cuda:0"]), ("macbook-m3-36gb", ["mps"]), ("1x8gb", [])])
def test_devices_and_what_is_left(host: str, devices: list[str]) -> None:
    policy = Policy.parse('prefer = ["cuda", "mps"]').for_component(None)
    found = fit(policy, ModelTree.load("llama-3.1-8b"), Host.load(host))
    assert found.devices == devices
    assert (found.left > 0) == bool(devices)
