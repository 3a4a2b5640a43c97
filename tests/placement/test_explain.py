"""Why something is where it is: the reasons of placements, the trace, and refusals."""

from __future__ import annotations

import json

import pytest
from tests.worlds import budgets, machine, planned, refused, small_llama

import devpolicy
from devpolicy import Plan

TWO = machine("cuda", "cuda")
LLAMA = small_llama()


def test_a_unit_that_prefer_placed_says_which_term() -> None:
    one = planned('prefer = "cuda"', LLAMA, TWO)
    assert one.placements["lm_head"].rule == "prefer"
    assert one.placements["lm_head"].reason == "`cuda` fits; `cuda:0` is the only device that is needed"
    two = planned(budgets('prefer = "cuda"', cuda=100), LLAMA, TWO)
    assert two.placements["lm_head"].reason == "`cuda` fits; `cuda:1` is one of 2 that share the model"


def test_a_unit_that_a_rule_placed_says_which() -> None:
    rule = '[[rule]]\nname = "head"\nmatch = "lm_head"\nprefer = "cuda:1"\n{}'
    plain = planned('prefer = "cuda:0"\n' + rule.format(""), LLAMA, TWO).placements["lm_head"]
    assert (plain.rule, plain.reason) == ("head", "rule `head` runs it on `cuda:1`")
    own = planned('prefer = "cuda:0"\n' + rule.format('reason = "the vocabulary is large"\n'), LLAMA, TWO)
    assert own.placements["lm_head"].reason == "the vocabulary is large"


def test_a_unit_that_overflow_keeps_elsewhere_says_so() -> None:
    plan = planned(budgets('prefer = "cuda"\noverflow = "cpu"', cuda=155), LLAMA, TWO)
    assert (
        planned(budgets('prefer = "cuda:0"\noverflow = "cpu"', cuda=155), LLAMA, TWO)
        .placements["model.layers.2.mlp.up"]
        .reason
        == "no room on `cuda`, and `overflow` allows `cpu`"
    )
    assert all(unit.rule == "prefer" for unit in plan.placements.values())


def test_a_unit_without_a_place_is_not_told_as_kept() -> None:
    notes = devpolicy.plan("split-across-gpus", "qwen2.5-72b", "2x24gb").explain("model.layers.0")
    assert "overflow: cannot keep it on `cpu`: it needs 1.6 GiB, and 1.4 GiB are left there" in notes


def test_a_plan_is_shown_in_one_line() -> None:
    assert repr(devpolicy.plan("cpu-only", "gpt2", "1x24gb")) == "<Plan for hf: 16 units on cpu>"
    generator = devpolicy.plan("rag-pipeline", None, "1x24gb", component="generator")
    assert repr(generator) == "<Plan of 'generator' for hf: 36 units on cuda:0>"


def test_explaining_a_module_names_who_decided_it() -> None:
    plan = planned('prefer = ["mps", "cuda"]\n[offload]\nlm_head = "cpu"\n', LLAMA, TWO)
    assert plan.explain("lm_head").splitlines() == [
        "lm_head: stored on cpu, executes on cuda:0 (40 B)",
        "  decided by offload.lm_head: rule `offload.lm_head` stores it on `cpu`",
        "  frees nothing on `cuda:0`: it is brought in at once",
        "prefer, in order:",
        "  mps: the host has no `mps` device",
        "  cuda: fits",
    ]


def test_explaining_a_container_explains_its_units() -> None:
    plan = planned('prefer = "cuda"', LLAMA, TWO)
    assert [line.partition(":")[0] for line in plan.explain("model.layers").splitlines() if "decided" not in line][
        :3
    ] == [f"model.layers.{at}" for at in range(3)]
    assert plan.explain("model.layers.1.mlp.up").startswith("model.layers.1.mlp.up: on cuda:0 (30 B)")


def test_what_a_rule_was_refused_for_is_told_with_the_module() -> None:
    rule = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda:7"\non_exhausted = "next"\n'
    text = planned(f'prefer = "cuda"\n{rule}', LLAMA, TWO).explain("lm_head")
    assert "rule `rule 1` runs `lm_head` on `cuda:7`, and this plan has no such device" in text


def test_what_was_said_of_a_refused_term_is_not_told() -> None:
    rule = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda:0"\non_exhausted = "next"\n'
    text = planned(budgets(f'prefer = ["cuda:0", "cpu"]\n{rule}', cuda=30), LLAMA, TWO).explain("lm_head")
    assert "left on `cuda:0`" not in text
    assert "this plan has no such device" in text


def test_explaining_the_plan_lists_every_device_with_its_parts() -> None:
    text = planned(budgets('prefer = "cuda"\n[offload]\nlm_head = "disk"\n', cuda=500), LLAMA, TWO).explain()
    assert "  cuda:0: weights 133 B, KV cache 0 B, activations 0 B, streaming 40 B, headroom 0 B, of 500 B" in text
    assert "  disk: weights 40 B" in text


def test_a_module_that_the_model_lacks_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        planned('prefer = "cuda"', LLAMA, TWO).explain("model.layer")


def test_a_plan_that_was_read_back_explains_without_its_trace() -> None:
    plan = planned('prefer = "cuda"', LLAMA, TWO)
    read = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert read.explain("lm_head").splitlines() == plan.explain("lm_head").splitlines()[:2]


def test_a_refusal_lists_each_term_with_its_reason() -> None:
    notes = refused(budgets('prefer = ["mps", "cuda"]', cuda=50), LLAMA, TWO).diagnostics[0].notes
    assert notes == (
        "`mps`: the host has no `mps` device",
        "`cuda`: needs 173 B, and 2 `cuda` devices have 100 B after headroom",
    )


def test_a_rule_that_stands_in_the_way_is_the_refusal() -> None:
    text = 'prefer = ["mps", "cuda"]\n[[rule]]\nmatch = "lm_head"\nprefer = "cuda:7"\n'
    refusal = refused(text, LLAMA, TWO)
    assert refusal.code == "DP302"
    assert refusal.diagnostics[0].notes == (
        "the host has no `cuda:7`, it has `cuda:0`, `cuda:1`",
        "`mps`: the host has no `mps` device",
    )
    assert refusal.diagnostics[0].place is not None
