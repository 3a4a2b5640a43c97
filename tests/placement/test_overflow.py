"""Overflow: what does not fit is kept elsewhere, as little as possible."""

from __future__ import annotations

import pytest
from tests.worlds import budgets, machine, planned, refused, small_llama, where

from devpolicy import Host, ModelTree
from devpolicy._core.model.tree import Activated, KVCache, Module, Tensor
from devpolicy._core.placement.plan import Plan

ONE, TWO = machine("cuda"), machine("cuda", "cuda")
LLAMA = small_llama()
ALL = LLAMA.bytes_as()


def _kept(plan: Plan) -> list[str]:
    return [path for path, unit in plan.placements.items() if unit.device != unit.runs_on]


def _spilled(size: int, tree: ModelTree = LLAMA, host: Host = ONE, text: str = "") -> Plan:
    return planned(budgets(f'prefer = "cuda"\noverflow = "cpu"\n{text}', cuda=size), tree, host)


def test_nothing_is_kept_elsewhere_where_everything_fits() -> None:
    assert _kept(_spilled(ALL)) == []


def test_the_last_block_goes_first() -> None:
    # 173 bytes: without one block of 30, with 12 of it brought in for a moment, 155.
    assert _kept(_spilled(155)) == ["model.layers.2"]
    assert _kept(_spilled(125)) == ["model.layers.1", "model.layers.2"]
    assert _spilled(155).ledger["cuda:0"].streaming == 12


def test_the_last_that_goes_is_no_more_than_is_missing() -> None:
    # One block is a byte too little. A second one would free 30, the norm frees the 2 that do.
    assert _kept(_spilled(154)) == ["model.layers.2", "model.norm"]


def test_other_modules_go_once_all_blocks_are_gone() -> None:
    assert _kept(_spilled(94)) == [f"model.layers.{at}" for at in range(3)] + ["model.norm"]


def test_buffers_stay_where_their_module_runs() -> None:
    assert where(_spilled(94))["model.rotary_emb"] == "cuda:0"


def test_a_term_is_refused_where_keeping_all_is_not_enough() -> None:
    assert refused(budgets('prefer = "cuda"\noverflow = "cpu"', cuda=40), LLAMA, ONE).code == "DP301"


def test_the_first_place_with_room_takes_it() -> None:
    text = budgets('prefer = "cuda"\noverflow = ["cpu", "disk"]', cuda=125, cpu=40)
    at = where(planned(text, LLAMA, ONE))
    assert (at["model.layers.2"], at["model.layers.1"], at["model.layers.0"]) == ("cpu", "disk", "cuda:0")


def test_what_is_brought_in_most_takes_the_first_place() -> None:
    held = [Module(name, "Block", (Tensor("w", (40,), "int8"),)) for name in ("encoder", "decoder")]
    head = Module("head", "Linear", (Tensor("w", (5,), "int8"),))
    tree = ModelTree(
        "seq",
        (Module("", "M"), *held, head),
        no_split=frozenset({"Block"}),
        reads=(Activated("encoder", per_request=True),),
    )
    # Without the encoder, which has to be brought in again, it is a byte too little.
    text = budgets('prefer = "cuda"\noverflow = ["cpu", "disk"]', cuda=84, cpu=40)
    assert where(planned(text, tree, ONE)) == {"encoder": "disk", "decoder": "cuda:0", "head": "cpu"}


def test_tied_modules_go_together_and_last() -> None:
    at = where(_spilled(45, small_llama(tied=True)))
    assert at["model.embed_tokens"] == at["lm_head"] == "cpu"
    assert where(_spilled(60, small_llama(tied=True)))["lm_head"] == "cuda:0"


def test_a_block_that_rules_divide_goes_as_a_whole_or_stays() -> None:
    rule = '[[rule]]\nmatch = "**.mlp"\nprefer = "cuda:9"\non_exhausted = "next"\n'
    at = where(_spilled(160, text=rule))
    assert {place for path, place in at.items() if path.startswith("model.layers.2.")} == {"cpu"}
    assert {place for path, place in at.items() if path.startswith("model.layers.1.")} == {"cuda:0"}


def test_overflow_never_cuts_a_block_of_which_a_rule_runs_a_part() -> None:
    rule = '[[rule]]\nmatch = "**.mlp"\nprefer = "cuda:0"\n'
    assert _kept(_spilled(172, text=rule)) == ["model.norm", "lm_head"]


CUT = '[offload]\n"model.layers.2.attn.o" = "disk"\n'


def test_the_rest_of_a_cut_block_goes_as_a_whole() -> None:
    at = where(_spilled(155, text=CUT))
    assert at["model.layers.2.attn.o"] == "disk"
    assert {at[f"model.layers.2.{part}"] for part in ("attn.q", "mlp")} == {"cpu"}
    assert at["model.layers.1"] == "cuda:0"


def test_what_a_cut_block_binds_may_be_kept_elsewhere_too() -> None:
    assert where(_spilled(125, text=CUT))["model.layers.1"] == "cpu"


def test_a_refusal_says_what_a_cut_block_binds() -> None:
    text = budgets(f'prefer = "cuda"\n{CUT}', cuda=100)
    assert "that needs 133 B, and the largest device, `cuda:0`, has 100 B" in str(refused(text, LLAMA, TWO))


def test_what_is_left_is_spread_as_split_says() -> None:
    ledger = planned(
        budgets('prefer = "cuda"\nsplit = "balanced"\noverflow = "cpu"', cuda=175), small_llama(12), TWO
    ).ledger
    shares = [budget.used / budget.cap for device, budget in ledger.items() if device != "cpu"]
    assert max(shares) - min(shares) < 0.1


def test_the_cache_of_what_is_kept_counts_on_the_main_device() -> None:
    tree = ModelTree(
        "cached",
        (Module("", "M"), *(Module(f"b{at}", "Block", (Tensor("w", (40,), "int8"),)) for at in range(3))),
        no_split=frozenset({"Block"}),
        kv_cache=tuple(KVCache(f"b{at}", 5) for at in range(3)),
        dtype="float16",
    )
    text = 'prefer = "cuda"\noverflow = "cpu"\n[workload]\ncontext = 1\n'
    # Each block needs 40 and 10 of cache; one that is kept leaves its cache and a buffer of 40 behind.
    plan = planned(budgets(text, cuda=110), tree, ONE)
    assert _kept(plan) == ["b1", "b2"]
    assert (plan.ledger["cuda:0"].kv_cache, plan.ledger["cuda:0"].streaming) == (30, 40)
    assert refused(budgets(text, cuda=109), tree, ONE).code == "DP301"


@pytest.mark.parametrize(
    "text", ['avoid = "cpu"\noverflow = "cpu"', 'avoid = "cpu"\noverflow = "cpu"\nsplit = "never"']
)
def test_nothing_is_kept_in_a_place_that_avoid_excludes(text: str) -> None:
    assert refused(budgets(f'prefer = "cuda"\n{text}', cuda=155), LLAMA, ONE).code == "DP301"


def test_avoid_beats_a_rule_that_keeps_weights() -> None:
    rule = '[offload]\nlm_head = "{}"\n'
    text = 'prefer = "cuda"\navoid = "cpu"\n'
    refusal = refused(text + rule.format("cpu"), LLAMA, ONE)
    assert refusal.code == "DP302"
    assert "`avoid`" in str(refusal)
    either = '[offload]\nlm_head = ["cpu", "disk"]\n'
    assert where(planned(text + either, LLAMA, ONE))["lm_head"] == "disk"


def test_weights_are_not_kept_on_the_cpu_beside_mps() -> None:
    text = budgets('prefer = "mps"\noverflow = ["cpu", "disk"]', mps=155)
    assert where(planned(text, LLAMA, machine("mps")))["model.layers.2"] == "disk"
    assert refused('prefer = "mps"\n[offload]\nlm_head = "cpu"\n', LLAMA, machine("mps")).code == "DP406"


def test_weights_that_must_be_rewritten_need_a_folder() -> None:
    modules = tuple(Module(one.path, one.class_name, one.tensors, in_place=False) for one in LLAMA.modules)
    tree = ModelTree("bin", modules, no_split=LLAMA.no_split)
    text = 'prefer = "cuda"\n[offload]\nlm_head = "disk"\n'
    assert refused(text, tree, ONE).code == "DP402"
    folder = '[memory.disk]\npath = "offload"\n'
    plan = planned(text + folder, tree, ONE)
    assert (plan.loading.offload_folder, plan.loading.rewritten) == ("offload", 40)
    assert refused(f'{text}{folder}cap = "39 B"\n', tree, ONE).code == "DP303"
    assert planned(f'{text}[memory.disk]\ncap = "0 B"\n', LLAMA, ONE).loading.offload_folder is None


def test_thousands_of_blocks_spill_as_few_as_must_go() -> None:
    tree = small_llama(3000)
    size = tree.bytes_as() - 30 * 700 + 12
    assert len(_kept(_spilled(size, tree))) == 700
