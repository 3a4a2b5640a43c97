"""What holds of the components of every policy: who speaks for them, and what they take beside each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import assume, event, given
from hypothesis import strategies as st
from tests import oracle
from tests.worlds import NAMES, Pipeline, make_plan, pipelines

from devpolicy import Plan, PolicyError, Unsatisfiable
from devpolicy._core.language.layers import in_order
from devpolicy._core.language.policy import MemoryRule, Workload
from devpolicy._core.verbs.joint import JointPlanner, Request

WORKLOAD = ("context", "batch", "dtype", "kv_dtype", "new_tokens")
MEMORY = ("basis", "cap", "headroom", "kv_cache", "activations")


def planned(pipeline: Pipeline, *names: str) -> dict[str, Plan]:
    """The plans of all components, or of those that are placed before one is refused."""
    joint = JointPlanner(pipeline.host, models=pipeline.trees, advise=False)
    plans: dict[str, Plan] = {}
    for name in names or oracle.order(pipeline.policy, list(pipeline.trees)):
        try:
            plans[name] = joint.place(Request(pipeline.policy, name, pipeline.trees.get(name))).plan
        except (Unsatisfiable, PolicyError) as refused:
            event(f"refused: {refused.code}")
            break
    event(f"{len(plans)} components placed")
    return plans


def taken(pipeline: Pipeline, plan: Plan) -> Counter[str]:
    """What a component takes of each device, counted from its map and its model, with the activations it states."""
    tree = pipeline.trees.get(plan.component or "")
    held: Counter[str] = Counter()
    if tree is None:
        (entry,) = (one for one in pipeline.policy.components if one.name == plan.component)
        return Counter({plan.device.to_torch_str(): entry.needs or 0})
    context = oracle.figure(pipeline.policy, str(plan.component), "context")
    for device, parts in oracle.recount(plan, tree, Workload(context=context)).items():
        held[device] = oracle.running(parts)
    for device, budget in plan.ledger.items():
        held[device] += budget.activations
    return held


# Layers.


@given(pipelines(), st.sampled_from((*NAMES, "abc", "xy", "")))
def test_what_layers_say_together_is_what_the_oracle_says(pipeline: Pipeline, name: str) -> None:
    policy = pipeline.policy
    flat = policy.for_component(name)
    for key in ("prefer", "overflow", "split", "ties", "share", "target"):
        assert getattr(flat, key) == oracle.said(policy, name, key), key
    assert set(flat.avoid) == oracle.avoided_by(policy, name)
    assert list(flat.rules) == oracle.rules_of(policy, name)
    assert flat.workload == Workload(**{key: oracle.figure(policy, name, key) for key in WORKLOAD})
    terms = {rule.term for rule in flat.memory}
    assert len(terms) == len(flat.memory)
    for rule in flat.memory:
        said = {key: oracle.budget(policy, name, rule.term, key) for key in MEMORY}
        assert rule == MemoryRule(rule.term, **said)
    assert policy.for_component(name) is flat, "it is resolved once"


@given(pipelines(), st.permutations([*NAMES, "xy"]))
def test_components_are_planned_in_the_order_of_the_oracle(pipeline: Pipeline, given_names: list[str]) -> None:
    assert in_order(pipeline.policy, given_names) == oracle.order(pipeline.policy, given_names)


@given(pipelines())
def test_the_first_rule_of_the_layers_that_matches_decides(pipeline: Pipeline) -> None:
    for name, plan in planned(pipeline).items():
        tree = pipeline.trees.get(name)
        if tree is None:
            assert [unit.rule for unit in plan.placements.values()] == ["prefer"]
            continue
        rules = replace(pipeline.policy.top, rules=tuple(oracle.rules_of(pipeline.policy, name)))
        tied = {oracle.tensors(tree)[tensor][0] for group in tree.ties for tensor in group}
        for path, unit in plan.placements.items():
            speaking = oracle.decided(rules, tree, path)
            if path not in tied and speaking and speaking[0].on_exhausted == "error":
                assert unit.rule == speaking[0].name


# Memory.


@given(pipelines(memory=False))
def test_no_device_is_over_its_budget_summed_over_components(pipeline: Pipeline) -> None:
    plans = planned(pipeline)
    together = sum((taken(pipeline, plan) for plan in plans.values()), Counter[str]())
    for plan in plans.values():
        for device, budget in plan.ledger.items():
            if device != "disk":
                assert together[device] + budget.headroom <= budget.cap


@given(pipelines())
def test_each_ledger_agrees_with_a_recount(pipeline: Pipeline) -> None:
    before: Counter[str] = Counter()
    for plan in planned(pipeline).values():
        own = taken(pipeline, plan)
        for device, budget in plan.ledger.items():
            if device == "disk":
                continue
            assert budget.used_by_others == before[device]
            assert budget.used - budget.used_by_others == own[device]
            assert budget.used + budget.headroom <= budget.cap
        before += own


@given(pipelines())
def test_nobody_takes_more_than_its_share(pipeline: Pipeline) -> None:
    for name, plan in planned(pipeline).items():
        share = oracle.said(pipeline.policy, name, "share")
        for device, size in taken(pipeline, plan).items():
            if share is not None and device in plan.ledger and device != "disk":
                budget = plan.ledger[device]
                assert size * 100 <= (budget.cap - budget.headroom) * share.percent


@given(pipelines())
def test_nobody_runs_on_what_it_or_the_policy_avoids(pipeline: Pipeline) -> None:
    for name, plan in planned(pipeline).items():
        avoided = {str(term) for term in oracle.avoided_by(pipeline.policy, name)}
        assert not avoided & set(plan.ledger)


# Order.


@given(pipelines())
def test_a_component_does_not_see_those_behind_it(pipeline: Pipeline) -> None:
    plans = planned(pipeline)
    assume(len(plans) > 1)
    # Behind the last that is placed may be one that was refused, and would be placed without it.
    last = list(plans)[-1]
    trees = {name: tree for name, tree in pipeline.trees.items() if name != last}
    entries = tuple(entry for entry in pipeline.policy.components if entry.name != last)
    shorter = Pipeline(replace(pipeline.policy, components=entries), trees, pipeline.host)
    before = {name: plan for name, plan in plans.items() if name != last}
    assert {name: plan for name, plan in planned(shorter).items() if name in before} == before


@given(pipelines())
def test_the_first_component_is_planned_as_if_it_were_alone(pipeline: Pipeline) -> None:
    for name, plan in list(planned(pipeline).items())[:1]:
        flat = pipeline.policy.for_component(name)
        if name in pipeline.trees:
            alone = make_plan(flat, pipeline.trees[name], pipeline.host, component=name, advise=False)
            assert alone.to_dict() == plan.to_dict()


@given(pipelines(), st.data())
def test_the_order_of_asking_for_components_does_not_count(pipeline: Pipeline, data: st.DataObject) -> None:
    names = oracle.order(pipeline.policy, list(pipeline.trees))
    plans = planned(pipeline)
    assume(len(plans) == len(names))
    asked = data.draw(st.lists(st.sampled_from(names), max_size=2)) + data.draw(st.permutations(names))
    assert planned(pipeline, *asked) == {name: plans[name] for name in dict.fromkeys(asked)}
