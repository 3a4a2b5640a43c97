"""Rules: which one decides, and what a list of terms and `together` do."""

from __future__ import annotations

from tests.worlds import budgets, device_map, machine, planned, small_llama, where

TWO, FOUR = machine("cuda", "cuda"), machine(*["cuda"] * 4)


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
