"""Tied tensors stay together: refused, taken along, or left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.worlds import device_map, machine, planned, refused, small_llama, where

from devpolicy import ModelTree
from devpolicy._core.model.tree import Module, Tensor

TWO = machine("cuda", "cuda")
TIED = small_llama(tied=True)


def test_a_rule_that_parts_tied_tensors_is_refused() -> None:
    refusal = refused('prefer = "cuda"\n[offload]\nlm_head = "disk"\n', TIED, TWO)
    assert refusal.code == "DP401"
    assert '`ties = "follow"`' in str(refusal)
    assert '"model.embed_tokens", "lm_head"' in str(refusal)


def test_a_rule_that_matches_the_whole_group_parts_nothing() -> None:
    text = 'prefer = "cuda"\n[offload]\nlm_head = "disk"\n"model.embed_tokens" = "disk"\n'
    at = where(planned(text, TIED, TWO))
    assert at["lm_head"] == at["model.embed_tokens"] == "disk"


@pytest.mark.parametrize(("ties", "place"), [("follow", "disk"), ("skip", "cuda:0")])
def test_the_whole_group_goes_along_or_stays(ties: str, place: str) -> None:
    at = where(planned(f'prefer = "cuda"\nties = "{ties}"\n[offload]\nlm_head = "disk"\n', TIED, TWO))
    assert at["lm_head"] == at["model.embed_tokens"] == place


def test_a_rule_says_for_itself_what_becomes_of_ties() -> None:
    text = 'prefer = "cuda"\nties = "follow"\n[[rule]]\nmatch = "lm_head"\noffload = "disk"\nties = "skip"\n'
    assert device_map(planned(text, TIED, TWO)) == {"": "cuda:0"}


def test_a_rule_to_an_executing_device_takes_its_group_along() -> None:
    at = where(planned('prefer = "cuda"\n[[rule]]\nmatch = "lm_head"\nprefer = "cuda:1"\n', TIED, TWO))
    assert at["lm_head"] == at["model.embed_tokens"] == "cuda:1"


def test_where_a_rule_is_skipped_the_next_rule_decides() -> None:
    text = """
        prefer = "cuda"
        [[rule]]
        match = "lm_head"
        offload = "disk"
        ties = "skip"
        [[rule]]
        match = "lm_head"
        prefer = "cuda:1"
    """
    plan = planned(text, TIED, TWO)
    assert where(plan)["lm_head"] == "cuda:1"
    assert plan.placements["lm_head"].rule == "rule 2"


@pytest.mark.parametrize(("ties", "decided"), [("skip", "rule 1"), ("follow", "rule 1"), ("refuse", None)])
def test_of_two_rules_for_a_group_the_last_gives_way(ties: str, decided: str | None) -> None:
    text = f"""
        prefer = "cuda"
        ties = "{ties}"
        [[rule]]
        match = "lm_head"
        prefer = "cuda:1"
        [[rule]]
        match = "model.embed_tokens"
        prefer = "cuda:0"
    """
    if decided is None:
        refusal = refused(text, TIED, TWO)
        assert refusal.code == "DP401"
        assert "rule 2" in str(refusal)
        return
    plan = planned(text, TIED, TWO)
    assert plan.placements["lm_head"].rule == plan.placements["model.embed_tokens"].rule == decided


def _head_that_shares_weight_and_bias() -> ModelTree:
    """As BERT's: the head's weight is the embedding's, its bias is held by another module too."""

    def tensor(name: str, size: int) -> Tensor:
        return Tensor(name, (size,), "int8")

    modules = (
        Module("", "Bert"),
        Module("embeddings", "Embedding", (tensor("weight", 40),)),
        Module("layer", "Block", (tensor("weight", 30),)),
        Module("decoder", "Linear", (tensor("weight", 40), tensor("bias", 4))),
        Module("predictions", "Head", (tensor("bias", 4),)),
    )
    ties = (("embeddings.weight", "decoder.weight"), ("decoder.bias", "predictions.bias"))
    return ModelTree("bert", modules, ties, frozenset({"Block"}))


@pytest.mark.parametrize("module", ["embeddings", "decoder", "predictions"])
def test_groups_with_a_module_in_common_are_one_group(module: str) -> None:
    text = f'prefer = "cuda"\nties = "follow"\n[offload]\n"{module}" = "disk"\n'
    at = where(planned(text, _head_that_shares_weight_and_bias(), TWO))
    assert {place for path, place in at.items() if path != "layer"} == {"disk"}


def test_a_group_inside_one_block_binds_nothing() -> None:
    tree = replace(small_llama(), ties=(("model.layers.0.attn.q.weight", "model.layers.0.attn.o.weight"),))
    text = 'prefer = "cuda"\nsplit = "balanced"\n[offload]\n"model.layers.0" = "disk"\n'
    assert where(planned(text, tree, TWO))["model.layers.0"] == "disk"
