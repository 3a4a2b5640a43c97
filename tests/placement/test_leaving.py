"""`overflow` in a rule: what it names leaves first, as little as lets the rest fit, the last first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import World, block_trees, budgets, machine, planned, refused, small_llama, where, worlds

from devpolicy import Host, Plan, PolicyError, Unsatisfiable, plan
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import DeviceSelector, Policy, ResolvedPolicy, Rule
from devpolicy._core.placement.planner import make_plan

CPU = DeviceSelector("cpu")
LLAMA = small_llama()
EXPERTS = 'prefer = "cuda"\n[[rule]]\nname = "experts"\nclass = "*Experts"\noverflow = "cpu"\n'


def _kept(made: Plan) -> list[str]:
    return [path for path, unit in made.placements.items() if unit.device != unit.runs_on]


def test_experts_leave_first() -> None:
    made = plan(Policy.parse(EXPERTS), "mixtral-8x7b", Host.load("2x24gb"))
    assert {path.rpartition(".")[2] for path in _kept(made)} == {"experts"}
    assert {made.placements[path].rule for path in _kept(made)} == {"experts"}
    layers = [int(path.split(".")[2]) for path in _kept(made)]
    assert layers == list(range(layers[0], 32))
    assert made.prediction is not None


def test_nothing_leaves_where_it_fits() -> None:
    made = plan(Policy.parse(EXPERTS), "mixtral-8x7b", "4x80gb")
    assert _kept(made) == []
    assert made.device == plan(Policy.parse('prefer = "cuda"'), "mixtral-8x7b", "4x80gb").device


def test_places_of_a_rule_are_filled_in_order() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "model.layers.*"\noverflow = ["cpu", "disk"]'
    made = where(planned(budgets(text, cuda=125, cpu=40), LLAMA, machine("cuda")))
    assert [made[f"model.layers.{at}"] for at in range(3)] == ["cuda:0", "disk", "cpu"]


def test_the_policys_overflow_follows_the_rules() -> None:
    text = 'prefer = "cuda"\noverflow = "cpu"\n[[rule]]\nname = "norm"\nmatch = "model.norm"\noverflow = "cpu"'
    made = planned(budgets(text, cuda=155), LLAMA, machine("cuda"))
    assert {path: unit.rule for path, unit in made.placements.items() if unit.device != unit.runs_on} == {
        "model.layers.2": "overflow",
        "model.norm": "norm",
    }


def test_a_rule_may_not_be_enough() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "model.norm"\noverflow = "cpu"'
    assert refused(budgets(text, cuda=94), LLAMA, machine("cuda")).code == "DP301"


def test_one_pool_has_no_other_place() -> None:
    text = EXPERTS.replace('"cuda"', '"mps"')
    with pytest.raises(Unsatisfiable, match="mps"):
        plan(Policy.parse(text), "mixtral-8x7b", "mac-64gb")


@pytest.mark.parametrize("other", ['prefer = "cuda"', 'offload = "cpu"', "together = true"])
def test_a_rule_does_one_thing(other: str) -> None:
    with pytest.raises(PolicyError, match="DP106"):
        Policy.parse(EXPERTS + other)


@given(st.data())
def test_as_few_leave_as_do(data: st.DataObject) -> None:
    """As many leave as must be kept elsewhere by force, the last first, for the rest to fit."""
    world = data.draw(worlds(rules=0, trees=block_trees()))
    below = data.draw(st.sampled_from(("", ".mlp", ".attn")))
    match = (Pattern.parse(f"layers.*{below}"),)
    policy = replace(world.policy, overflow=(), rules=(Rule("leaves", match, overflow=(CPU,)),))
    layers = [module.path for module in world.tree.modules if match[0].matches(module.path)]
    asked = [None, *(layers[len(layers) - count :] for count in range(1, len(layers) + 1))]
    forced = (_forced(policy, paths, world) for paths in asked)
    expected = next((made for made in forced if made is not None), None)
    made = _attempt(policy, world)
    assert (made is None) == (expected is None)
    if made is not None and expected is not None:
        assert _kept(made) == _kept(expected)
        assert made.device == expected.device


def _forced(policy: ResolvedPolicy, paths: list[str] | None, world: World) -> Plan | None:
    patterns = tuple(map(Pattern.parse, paths or ()))
    rules = (Rule("kept", patterns, offload=(CPU,)),) if patterns else ()
    return _attempt(replace(policy, rules=rules), world)


def _attempt(policy: ResolvedPolicy, world: World) -> Plan | None:
    try:
        return make_plan(policy, world.tree, world.host, advise=False)
    except (Unsatisfiable, PolicyError):
        return None
