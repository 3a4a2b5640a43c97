"""Rules: which one decides, what a list of terms and `together` do, and what a cut block needs."""

from __future__ import annotations

from tests.worlds import budgets, device_map, machine, planned, refused, small_llama, where

TWO, FOUR = machine("cuda", "cuda"), machine(*["cuda"] * 4)


# A block from which something is kept elsewhere.


def test_what_stands_beside_the_blocks_runs_on_the_main_device_when_one_of_them_is_cut() -> None:
    # The cut block has no hook that would move the tables to it: they have to be made where it runs.
    plan = planned(
        'prefer = "cuda"\nsplit = "balanced"\n[offload]\n"model.layers.0.attn.o" = "cpu"\n', small_llama(4), FOUR
    )
    at = where(plan)
    assert at["model.layers.0.attn.q"] == at["model.rotary_emb"] == at["model.norm"] == "cuda:0"
    assert at["lm_head"] == "cuda:3"
    assert "what it may read" in plan.placements["model.rotary_emb"].reason


def test_what_stands_beside_the_blocks_is_left_to_the_search_when_none_is_cut() -> None:
    plan = planned('prefer = "cuda"\nsplit = "balanced"\n[offload]\n"model.layers.0" = "cpu"\n', small_llama(4), FOUR)
    assert where(plan)["model.rotary_emb"] == "cuda:3"


def test_a_rule_may_not_run_the_rotary_table_apart_from_a_cut_block() -> None:
    text = """
        prefer = "cuda"
        [offload]
        "model.layers.0.attn.o" = "cpu"
        [[rule]]
        match = "model.embed_tokens"
        prefer = "cuda:0"
        [[rule]]
        match = "model.rotary_emb"
        prefer = "cuda:1"
    """
    assert refused(text, small_llama(), TWO).code == "DP404"


# Several rules.


def test_units_for_which_a_rule_is_exhausted_come_together_where_the_next_rule_says_so() -> None:
    text = budgets(
        """
        prefer = "cuda"
        split = "balanced"
        [[rule]]
        match = "model.layers.*"
        prefer = "cuda:7"
        on_exhausted = "next"
        [[rule]]
        match = "model.layers.*"
        together = true
        """,
        cuda=130,
    )
    plan = planned(text, small_llama(), FOUR)
    assert len({where(plan)[f"model.layers.{at}"] for at in range(3)}) == 1


def test_each_unit_takes_the_first_device_of_a_rule_with_room() -> None:
    text = budgets(
        'prefer = "cuda"\n[[rule]]\nmatch = "model.layers.*"\nprefer = ["cuda:1", "cuda:0"]\n', cuda=190, cuda_1=60
    )
    at = where(planned(text, small_llama(), TWO))
    assert [at[f"model.layers.{number}"] for number in range(3)] == ["cuda:1", "cuda:1", "cuda:0"]


def test_a_rule_with_together_takes_the_first_device_that_holds_all() -> None:
    rule = '[[rule]]\nmatch = "model.layers.*"\nprefer = ["cuda:1", "cuda:0"]\ntogether = true\n'
    text = budgets(f'prefer = "cuda"\n{rule}', cuda=190, cuda_1=60)
    assert device_map(planned(text, small_llama(), TWO)) == {"": "cuda:0"}
