"""Each property fails on a plan that breaks it, and holds of the plans that are made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import World, as_policy, worlds

from devpolicy import Accelerator, ComponentDevice, Device, DeviceMap, Host, ModelTree, Policy
from devpolicy._core.language.policy import Amount, DeviceSelector, ResolvedPolicy
from devpolicy._core.language.properties import OF_A_PLAN, Property
from devpolicy._core.model.catalogue import model_catalogue
from devpolicy._core.model.tree import KVCache, Module
from devpolicy._core.placement.plan import Placements, Plan
from devpolicy._core.placement.quantized import tree_of
from devpolicy._core.review.check import violations
from devpolicy._core.review.outcome import Outcome, plan_outcome
from devpolicy._core.review.recount import Budgets, DeviceLoad, recount

POLICY = Policy.parse('prefer = "cuda"\n[offload]\nlm_head = "disk"\n')
LLAMA = ModelTree.load("llama-3.1-8b")
SOUND = plan_outcome(POLICY, LLAMA, Host.load("2x24gb"))
REFUSED = plan_outcome(POLICY, LLAMA, Host.load("cpu-only"))
EVERY = [
    Property(name) for name in OF_A_PLAN if name not in ("never_on", "context", "runs")
]  # `runs` is tested with what runs


def broken(name: str, outcome: Outcome, term: str = "") -> str:
    """What is complained of first, nothing where the property holds."""
    kind, _, number = term.partition(":")
    wanted = Property(name, DeviceSelector(kind, int(number) if number else None) if term else None)
    return next(violations(wanted, outcome), "")


def moved(outcome: Outcome, **devices: str) -> Outcome:
    """The same answer with another map, which a planner that errs might give."""
    given = DeviceMap({key.replace("__", "."): Device.from_str(device) for key, device in devices.items()})
    assert outcome.plan is not None
    units = {
        path: replace(unit, device=given[key], runs_on=given[key] if str(given[key]) != "disk" else unit.runs_on)
        for path, unit in outcome.plan.placements.items()
        for key in given.to_dict()
        if path == key or path.startswith(f"{key}.")
    }
    plan = replace(outcome.plan, device=ComponentDevice.from_multiple(given), placements=Placements(units))
    return replace(outcome, plan=plan, device=plan.device)


def test_a_plan_has_room_for_its_tokens() -> None:
    assert list(violations(Property("context", tokens=1), SOUND)) == []
    (told,) = violations(Property("context", tokens=1 << 20), SOUND)
    assert told.startswith("its KV cache has room for ")


def test_all_hold_of_a_sound_plan_but_that_nothing_is_streamed() -> None:
    assert {str(one): list(violations(one, SOUND)) for one in EVERY if one.name != "resident"} == {
        str(one): [] for one in EVERY if one.name != "resident"
    }
    assert "`lm_head` is stored on `disk` by `offload.lm_head`" in broken("resident", SOUND)


def test_a_refusal_breaks_only_that_it_always_resolves() -> None:
    assert [str(one) for one in EVERY if broken(one.name, REFUSED)] == ["always_resolves"]


def test_a_device_that_is_not_there_is_no_place() -> None:
    assert "the host has none" in broken("placed_or_refused", moved(SOUND, model="cuda:5", lm_head="cuda:0"))


def test_a_device_that_does_not_work_is_no_place() -> None:
    bad = replace(SOUND.host, faults=(("cuda", "no driver"),))
    assert "it does not work: no driver" in broken("placed_or_refused", replace(SOUND, host=bad))


def test_a_device_that_is_avoided_is_no_place() -> None:
    avoiding = replace(POLICY.top, avoid=(DeviceSelector("cuda", 0),))
    assert "which `avoid` excludes" in broken("placed_or_refused", replace(SOUND, policy=avoiding))


def test_a_tensor_without_a_place_is_found() -> None:
    assert "has 0 places" in broken("placed_or_refused", moved(SOUND, model="cuda:0"))


def test_a_tensor_with_two_places_is_found() -> None:
    twice = {"model": "cuda:0", "model.layers": "cuda:1", "lm_head": "cuda:0"}
    assert "has 2 places" in broken("placed_or_refused", moved(SOUND, **twice))


def test_a_refusal_that_no_host_could_help_is_none() -> None:
    tensor = plan_outcome(Policy.parse('prefer = "cuda"\n[offload]\n"lm_head.weight" = "disk"\n'), LLAMA, SOUND.host)
    assert "DP203" in broken("placed_or_refused", tensor)


def test_more_than_the_policy_leaves_is_over_the_budget() -> None:
    capped = Policy.parse('prefer = "cuda"\n[memory]\ncuda = "10 GiB"\n').top
    assert "and the policy leaves" in broken("within_budget", replace(SOUND, policy=capped))


def test_more_than_is_free_is_over_the_budget() -> None:
    text = 'prefer = "cuda"\n[memory.cuda]\nbasis = "total"\nheadroom = "0 B"\n'
    host = Host([Accelerator("cuda", memory="24 GiB", free="4 GiB")], memory="64 GiB")
    assert "4.0 GiB of it are free" in broken("within_budget", plan_outcome(Policy.parse(text), LLAMA, host))


def test_devices_that_share_one_memory_must_fit_in_it_together() -> None:
    host = Host.load("gb10")
    text = 'prefer = "cuda"\n[offload]\n"model.layers.{16..}" = "cpu"\n[memory.cuda]\nbasis = "total"\n'
    sound = plan_outcome(Policy.parse(text), LLAMA, host)
    assert not broken("within_budget", sound)
    full = replace(host, free=12 << 30, accelerators=tuple(replace(one, free=12 << 30) for one in host.accelerators))
    assert "share" in " ".join(violations(Property("within_budget"), replace(sound, host=full)))


def test_more_than_the_share_of_a_component_is_over_the_budget() -> None:
    text = 'prefer = "cuda"\n[component.a]\nshare = "{}"\n'
    alone = plan_outcome(Policy.parse(text.format("75%")), LLAMA, SOUND.host, component="a")
    assert not broken("within_budget", alone)
    smaller = Policy.parse(text.format("70%")).for_component("a")
    told = broken("within_budget", replace(alone, policy=smaller))
    assert told == "`cuda:0` is asked for 16.0 GiB, and the component's share of 22.0 GiB is 15.4 GiB"


def test_both_sides_of_one_memory_count_against_a_share() -> None:
    text = 'prefer = "cuda"\n[component.a]\nshare = "{}"\n[offload]\n"model.layers.{{16..}}" = "cpu"\n'
    outcome = plan_outcome(Policy.parse(text.format("90%")), LLAMA, Host.load("gb10"), component="a")
    assert outcome.plan is not None
    assert not broken("within_budget", outcome)
    smaller = Policy.parse(text.format("10%")).for_component("a").for_host(outcome.host)
    assert "the component's share" in broken("within_budget", replace(outcome, policy=smaller))


def test_tied_tensors_on_two_devices_are_found() -> None:
    gpt2 = plan_outcome(Policy.parse('prefer = "cuda"\n'), ModelTree.load("gpt2"), SOUND.host)
    parted = moved(gpt2, transformer="cuda:0", lm_head="cuda:1")
    assert "are on `cuda:0` and `cuda:1`" in broken("ties_together", parted)


def test_a_block_that_runs_on_two_devices_is_found() -> None:
    cut = {"model": "cuda:0", "lm_head": "cuda:0"}
    outcome = moved(SOUND, **cut)
    assert outcome.plan is not None
    units = dict(outcome.plan.placements)
    first = units.pop("model.layers.0")
    units["model.layers.0.self_attn"] = first
    units["model.layers.0.mlp"] = replace(first, runs_on=Device.from_str("cuda:1"))
    halves = replace(outcome, plan=replace(outcome.plan, placements=Placements(units)))
    assert "block `model.layers.0` executes on `cuda:0` and `cuda:1`" in broken("blocks_whole", halves)


def test_two_types_of_devices_in_one_plan_are_found() -> None:
    assert "execute on `cpu` and `cuda`" in broken("one_type", moved(SOUND, model="cuda:0", lm_head="cpu"))


@pytest.mark.parametrize(("term", "found"), [("disk", True), ("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_what_is_never_used_is_looked_for_everywhere(term: str, found: bool) -> None:
    assert bool(broken("never_on", SOUND, term)) is found


def test_what_is_kept_elsewhere_is_told_apart_from_where_it_runs() -> None:
    assert broken("never_on", SOUND, "disk").startswith("`lm_head` is stored on `disk`, decided by `offload.lm_head`")
    elsewhere = plan_outcome(Policy.parse('prefer = "cuda"\n[offload]\n"model.**" = "cpu"\n'), LLAMA, SOUND.host)
    assert broken("never_on", elsewhere, "cuda").startswith("`model.embed_tokens` executes on `cuda:0`, decided by")


def test_without_a_model_the_device_is_what_is_never_used() -> None:
    chosen = plan_outcome(POLICY, None, SOUND.host)
    assert "`cuda:0` is chosen" in broken("never_on", chosen, "cuda")
    assert not broken("never_on", chosen, "cpu")


def test_another_answer_the_second_time_is_found() -> None:
    assert "another plan" in broken("same_each_time", moved(SOUND, model="cuda:1", lm_head="cuda:1"))
    assert "another answer" in broken("same_each_time", replace(REFUSED, refusal=None))


WORLDS = st.one_of(worlds(), worlds(hostile=True))


@given(WORLDS)
def test_whatever_is_planned_has_every_promised_property(world: World) -> None:
    outcome = plan_outcome(as_policy(world.policy), world.tree, world.host)
    promised = ("placed_or_refused", "within_budget", "ties_together", "one_type", "same_each_time")
    if outcome.refusal is not None and outcome.refusal.code == "DP203":
        return
    assert [text for name in promised for text in violations(Property(name), outcome)] == []


@given(WORLDS, st.integers(1, 100))
def test_no_component_takes_more_than_its_share(world: World, percent: int) -> None:
    shared = replace(world.policy, share=Amount(percent=percent))
    outcome = plan_outcome(as_policy(shared), world.tree, world.host)
    assert list(violations(Property("within_budget"), outcome)) == []


@given(WORLDS)
def test_the_recount_is_what_the_ledger_says(world: World) -> None:
    outcome = plan_outcome(as_policy(world.policy), world.tree, world.host)
    if outcome.plan is not None:
        compare(outcome.plan, world.tree, world.policy, world.host)


@pytest.mark.parametrize("name", model_catalogue())
def test_the_recount_is_the_ledger_of_every_shipped_model(name: str) -> None:
    """One has linear attention, whose states are float32: they were counted at the width of keys and values."""
    policy = Policy.parse('prefer = "cuda"\noverflow = "cpu"\n')
    tree, host = ModelTree.load(name), Host.load("8x80gb")
    plan = plan_outcome(policy, tree, host).plan
    assert plan is not None
    compare(plan, tree_of(plan, policy.top, tree, host), policy.top, host)


def test_a_model_without_tensors_keeps_no_cache() -> None:
    policy, host = Policy.parse('prefer = "cuda"\n'), Host.load("1x8gb")
    tree = ModelTree("empty", (Module("", "Model"),), kv_cache=(KVCache("", 1),))
    plan = plan_outcome(policy, tree, host).plan
    assert plan is not None
    compare(plan, tree, policy.top, host)


def compare(plan: Plan, tree: ModelTree, policy: ResolvedPolicy, host: Host) -> None:
    """Compare what the ledger has of each device with the recount of it."""
    loads = recount(plan, tree, policy, Budgets(policy, host))
    for device, budget in plan.ledger.items():
        if device != "disk":
            load = loads.pop(device, DeviceLoad())
            counted = (load.weights, load.kv_cache, load.streaming, load.activations, load.weights + load.merged)
            held = (budget.weights, budget.kv_cache, budget.streaming, budget.activations, budget.load)
            assert counted == held, device
    assert [device for device, load in loads.items() if load.total and device != "disk"] == []
