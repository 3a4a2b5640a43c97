"""What a device map can say of divided blocks, and of tensors outside of any block."""

from __future__ import annotations

from dataclasses import replace

from tests.worlds import budgets, device_map, machine, planned, refused, small_llama, where

from devpolicy import ModelTree
from devpolicy._core.model.tree import Module, Tensor

TWO, FOUR = machine("cuda", "cuda"), machine(*["cuda"] * 4)

CUT = '[offload]\n"model.layers.0.attn.o" = "cpu"\n'


def test_what_stands_beside_a_cut_block_runs_on_the_main_device() -> None:
    # The cut block has no hook that would move the tables to it: they have to be made where it runs.
    plan = planned(f'prefer = "cuda"\nsplit = "balanced"\n{CUT}', small_llama(4), FOUR)
    at = where(plan)
    assert at["model.layers.0.attn.q"] == at["model.rotary_emb"] == at["model.norm"] == "cuda:0"
    assert at["lm_head"] == "cuda:3"
    assert "what it may read" in plan.placements["model.rotary_emb"].reason


def test_what_stands_beside_blocks_is_left_to_the_search() -> None:
    plan = planned('prefer = "cuda"\nsplit = "balanced"\n[offload]\n"model.layers.0" = "cpu"\n', small_llama(4), FOUR)
    assert where(plan)["model.rotary_emb"] == "cuda:3"


def test_all_up_to_the_last_cut_block_is_on_the_main_device() -> None:
    text = 'prefer = "cuda"\nsplit = "balanced"\n[offload]\n"model.layers.2.attn.o" = "cpu"\n'
    at = where(planned(text, small_llama(6), TWO))
    assert {at[path] for path in ("model.embed_tokens", "model.layers.0", "model.layers.2.mlp")} == {"cuda:0"}
    assert at["model.layers.5"] == "cuda:1"


def test_a_rule_may_not_part_the_rotary_table_from_a_cut_block() -> None:
    pins = "".join(
        f'[[rule]]\nmatch = "{module}"\nprefer = "cuda:{number}"\n'
        for number, module in enumerate(("model.embed_tokens", "model.rotary_emb"))
    )
    assert refused(f'prefer = "cuda"\n{CUT}{pins}', small_llama(), TWO).code == "DP404"


def test_a_rule_may_not_run_a_part_of_a_block_on_another_device() -> None:
    refusal = refused(
        'prefer = "cuda"\n[[rule]]\nmatch = "model.layers.1.mlp"\nprefer = "cuda:1"\n', small_llama(), TWO
    )
    assert refusal.code == "DP404"
    assert "`model.layers.1`" in str(refusal)


def test_the_pieces_of_a_block_that_do_not_move_stay_together() -> None:
    rule = '[[rule]]\nmatch = "model.layers.*.mlp"\nprefer = "cuda:9"\non_exhausted = "next"\n'
    at = where(planned(budgets(f'prefer = "cuda"\n{rule}', cuda=120), small_llama(4), TWO))
    assert set(at.values()) == {"cuda:0", "cuda:1"}
    for number in range(4):
        assert len({place for path, place in at.items() if path.startswith(f"model.layers.{number}.")}) == 1


def test_a_block_that_is_kept_in_two_places_is_cut_too() -> None:
    # Neither place has a key for the whole block, so it has no hook that would move the rotary tables to it.
    text = """
        prefer = "cuda"
        split = "balanced"
        [offload]
        "model.layers.0.attn" = "disk"
        "model.layers.0.mlp" = "cpu"
    """
    assert where(planned(text, small_llama(4), FOUR))["model.rotary_emb"] == "cuda:0"


def _without_no_split(cls: str) -> ModelTree:
    tree = small_llama()
    modules = (replace(one, class_name=cls if one.path == "model.layers" else one.class_name) for one in tree.modules)
    return replace(tree, modules=tuple(modules), no_split=frozenset())


def test_elements_of_lists_are_blocks_where_none_are_named() -> None:
    at = where(planned(budgets('prefer = "cuda"', cuda=75), _without_no_split("ModuleList"), FOUR))
    assert list(at) == list(where(planned('prefer = "cuda"', small_llama(), FOUR)))
    assert [path for path in at if path.startswith("model.layers")] == [f"model.layers.{number}" for number in range(3)]


def test_parts_stay_whole_without_blocks_and_lists() -> None:
    assert list(where(planned('prefer = "cuda"', _without_no_split("Stack"), FOUR))) == ["model", "lm_head"]


# Tensors of the model itself.


def _with_own_bias() -> ModelTree:
    tree = small_llama()
    return replace(tree, modules=(Module("", "Llama", (Tensor("bias", (3,), "int8", buffer=True),)), *tree.modules[1:]))


def test_the_models_own_tensors_are_on_the_main_device() -> None:
    # accelerate's hook of the root moves the root's own tensors to the main device, whatever the map says.
    rules = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda:0"\n'
    text = budgets(f'prefer = "cuda:1"\n{rules}', cuda=170)
    plan = planned(text, _with_own_bias(), FOUR)
    assert where(plan)[""] == "cuda:0"
    assert where(plan)["model.embed_tokens"] == "cuda:1"
    assert device_map(plan)["bias"] == "cuda:0"


def test_a_rule_may_not_part_the_models_own_tensors() -> None:
    first = '[[rule]]\nmatch = "model.embed_tokens"\nprefer = "cuda:0"\n'
    rest = '[[rule]]\nmatch = "{}"\nprefer = "cuda:1"\n'
    refusal = refused('prefer = "cuda"\n' + first + rest.format("**"), _with_own_bias(), TWO)
    assert refusal.code == "DP408"
    assert "`*`" in str(refusal)
    assert where(planned('prefer = "cuda"\n' + first + rest.format("*"), _with_own_bias(), TWO))[""] == "cuda:0"


def test_the_own_tensors_of_a_divided_module_stay() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "lm_head"\nprefer = "cuda:0"\n[offload]\n"**" = "cpu"\n'
    assert refused(text, _with_own_bias(), TWO).code == "DP408"
