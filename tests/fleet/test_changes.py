"""Nodes that come and go: as few moves as may be, and what a fleet survives."""

from itertools import product

import pytest
from tests.fleet.brute_force import cost_of, world

from devpolicy import Host, Policy, Unsatisfiable
from devpolicy._core.fleet.survival import losses, unsurvived
from devpolicy.fleet import Fleet, moves, plan_fleet

TEXT = """
prefer = "cuda"
[component.writer]
model = "qwen2.5-32b"
[component.small]
model = "llama-3.1-8b"
[component.embedder]
model = "bge-m3"
replicas = 3
nodes = "spread"
"""
POLICY = Policy.parse(TEXT)


def told(before, after) -> list[str]:
    return [str(one) for one in moves(before, after)]


def test_the_same_fleet_moves_nothing():
    plan = plan_fleet(POLICY, None, "mixed-50")
    again = plan_fleet(POLICY, None, "mixed-50", before=plan)
    assert again == plan
    assert told(plan, again) == []


def test_a_lost_node_moves_what_was_on_it_and_nothing_else():
    fleet = Fleet.load("mixed-50")
    plan = plan_fleet(POLICY, None, fleet)
    lost = plan.components["embedder/1"].node
    after = plan_fleet(POLICY, None, fleet.without(lost), before=plan)
    found = moves(plan, after)
    assert [one.source for one in found] == [lost]
    assert len(found) == len(plan.nodes[lost])


def test_a_smaller_node_that_is_added_moves_nothing():
    fleet = Fleet({"big": Host.load("4x80gb")})
    plan = plan_fleet(POLICY, None, fleet)
    more = fleet.with_node("a-small", Host.load("2x24gb"))
    assert told(plan, plan_fleet(POLICY, None, more, before=plan)) == []
    assert told(plan, plan_fleet(POLICY, None, more)) != []


def test_a_new_policy_starts_and_stops_what_it_must():
    plan = plan_fleet(POLICY, None, "mixed-50")
    other = Policy.parse(TEXT.replace("component.small", "component.tiny").replace("replicas = 3", "replicas = 2"))
    after = plan_fleet(other, None, "mixed-50", before=plan)
    found = told(plan, after)
    assert sorted(line.partition(":")[2] for line in found) == [
        " starts on l4-0",
        " stops on l4-0",
        f" stops on {plan.components['embedder/2'].node}",
    ]


def _least_moves(one, fleet, plan) -> int | None:
    """Return the fewest moves of all plans with the wishes that a new plan grants, by trying every policy of labels."""
    try:
        wanted = cost_of(plan_fleet(one.policy, one.models, fleet), one)[0]
    except Unsatisfiable:
        return None
    best = None
    for nodes in product(fleet, repeat=len(one.models)):
        text = one.text
        for name, node in zip(one.models, nodes, strict=True):
            text = text.replace(f"[component.{name}]", f'[component.{name}]\nnode = {{ labels = {{ at = "{node}" }} }}')
        pinned = Fleet(dict(fleet), labels={node: {"at": node} for node in fleet})
        try:
            made = plan_fleet(Policy.parse(text), one.models, pinned)
        except Unsatisfiable:
            continue
        if cost_of(made, one)[0] == wanted:
            count = len(moves(plan, made))
            best = count if best is None else min(best, count)
    return best


@pytest.mark.parametrize("seed", range(300, 312))
def test_no_plan_with_the_same_wishes_moves_less(seed):
    one = world(seed, plain=True)
    try:
        plan = plan_fleet(one.policy, one.models, one.fleet)
    except Unsatisfiable:
        return
    for fleet in [one.fleet.without(node) for node in one.fleet] + [one.fleet.with_node("new", Host.load("2x24gb"))]:
        least = _least_moves(one, fleet, plan)
        if least is not None:
            assert len(moves(plan, plan_fleet(one.policy, one.models, fleet, before=plan))) == least


def test_a_fleet_survives_where_a_node_can_be_spared():
    alike = Fleet({f"n{at}": Host.load("1x24gb") for at in range(4)})
    policy = Policy.parse('[component.w]\nmodel = "llama-3.1-8b"\nprefer = "cuda"\nreplicas = 3')
    assert unsurvived(policy, None, alike, 1) == ""
    why = unsurvived(policy, None, alike, 2)
    assert why == "without `n0` and `n1`: 2 of 3 replicas of `w` have a place in the fleet"


def test_alike_nodes_fail_once():
    assert [one[0] for one in losses(Fleet.load("8x8-h100"), 1)] == ["rack-a-0", "rack-b-0"]
    assert len(list(losses(Fleet.load("8x8-h100"), 2))) == 3
