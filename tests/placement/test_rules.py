"""Rules: which one decides, and what a list of terms and `together` do."""

from __future__ import annotations

import pytest
from tests.worlds import budgets, device_map, machine, planned, refused, small_llama, where

from devpolicy import Policy, PolicyError
from devpolicy._core.placement.lint import lint

TWO, FOUR = machine("cuda", "cuda"), machine(*["cuda"] * 4)


def test_units_of_an_exhausted_rule_come_together() -> None:
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


def test_a_rule_with_together_takes_the_first_that_holds_all() -> None:
    rule = '[[rule]]\nmatch = "model.layers.*"\nprefer = ["cuda:1", "cuda:0"]\ntogether = true\n'
    text = budgets(f'prefer = "cuda"\n{rule}', cuda=190, cuda_1=60)
    assert device_map(planned(text, small_llama(), TWO)) == {"": "cuda:0"}


# Which rule decides.


def _rule(places: str, *, rules: str, cuda: int = 1000) -> dict[str, str]:
    return where(planned(budgets(f'prefer = "{places}"\n{rules}', cuda=cuda), small_llama(), TWO))


def test_the_first_rule_that_matches_wins() -> None:
    first = '[[rule]]\nmatch = "model.layers"\noffload = "disk"\non_exhausted = "next"\n'
    second = '[[rule]]\nmatch = "model.layers.1"\noffload = "cpu"\n'
    assert _rule("cuda", rules=first + second)["model.layers.1"] == "disk"
    at = _rule("cuda", rules=second + first)
    assert (at["model.layers.0"], at["model.layers.1"]) == ("disk", "cpu")


def test_shorthands_and_rules_stand_in_written_order() -> None:
    rule, table = '[[rule]]\nmatch = ["lm_head", "model.norm"]\noffload = "disk"\n', '[offload]\nlm_head = "cpu"\n'
    wide = table + 'model.layers.0 = "cpu"\n"model.embed_tokens" = "cpu"\n'
    assert _rule("cuda", rules=wide + rule)["lm_head"] == "cpu"
    narrow = rule.replace('"model.norm"', '"model.layers.0"')
    assert _rule("cuda", rules=narrow + '[offload]\nmodel.layers = "cpu"\n')["lm_head"] == "disk"


HEAD, ALL = '[[rule]]\nmatch = "lm_head"\noffload = "cpu"\n', '[[rule]]\nmatch = "**"\noffload = "disk"\n'


def test_a_rule_that_is_shadowed_wholly_is_an_error() -> None:
    layers = '[[rule]]\nname = "layers"\nmatch = "model.layers.*"\noffload = "disk"\n'
    two = '[[rule]]\nname = "two"\nmatch = ["lm_head", "model.layers.1"]\noffload = "cpu"\n'
    with pytest.raises(PolicyError) as refused:
        _rule("cuda", rules=layers + HEAD + two)
    (finding,) = refused.value.diagnostics
    assert finding.code == "DP502"
    assert "rule `two` decides nothing" in finding.message
    assert "before it `layers`, `rule 2` decide" in finding.message
    assert finding.place is not None
    assert "disk" in _rule("cuda", rules=layers + two).values(), "of `lm_head` it decides"


@pytest.mark.parametrize(
    "rules",
    [
        ALL.replace('"disk"', '"disk"\non_exhausted = "next"') + HEAD,
        ALL.replace('"disk"', '"disk"\nwhen = { xpu = "==0" }') + HEAD,
    ],
    ids=["exhausted", "on some hosts"],
)
def test_a_rule_that_may_leave_something_shadows_nothing(rules: str) -> None:
    assert _shadowed(Policy.parse(f'prefer = "cuda"\n{rules}')) == []


def test_rules_that_count_on_the_same_hosts_shadow_each_other() -> None:
    when = "when = { cuda = 1 }\n"
    assert _shadowed(Policy.parse(f'prefer = "cuda"\n{ALL}{when}{HEAD}{when}')) == ["rule 2"]


def test_a_rule_of_a_profile_is_meant_to_come_first() -> None:
    text = 'extends = "offload-lm-head"\n[offload]\n"**" = "cpu"\n'
    assert _shadowed(Policy.parse(text)) == []
    text = f'prefer = "cuda"\n{HEAD}[[profile.p.rule]]\nmatch = "**"\noffload = "disk"\n'
    assert _shadowed(Policy.parse(text).for_host(machine("cuda"), profile="p")) == []


def test_a_rule_skipped_for_ties_leaves_them_to_the_next() -> None:
    both = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda"\nties = "skip"\n' + HEAD
    assert _shadowed(Policy.parse(f'prefer = "cuda"\n{both}'), tied=True) == []
    assert _shadowed(Policy.parse(f'prefer = "cuda"\n{both}')) == ["rule 2"]


def _shadowed(policy: Policy, *, tied: bool = False) -> list[str]:
    found = lint(policy, small_llama(tied=tied))
    return [finding.message.split("`")[1] for finding in found if finding.code == "DP502"]


def test_match_class_and_size_hold_for_one_and_the_same_module() -> None:
    both = '[[rule]]\nmatch = "model.layers.0"\nclass = "{}"\noffload = "disk"\n'
    assert _rule("cuda", rules=both.format("Bl*"))["model.layers.0"] == "disk"
    assert "disk" not in _rule("cuda", rules=both.format("Linear")).values()


@pytest.mark.parametrize(
    ("size", "away"),
    [(">=40 B", True), (">40 B", False), (">39 B", True), ("<=40 B", True), ("<40 B", False), ("==40 B", True)],
)
def test_a_size_is_compared_to_the_byte(size: str, away: bool) -> None:
    at = _rule("cuda", rules=f'[[rule]]\nmatch = "lm_head"\nsize = "{size}"\noffload = "disk"\n')
    assert (at["lm_head"] == "disk") == away


def test_a_size_alone_speaks_of_what_is_placed_as_a_whole() -> None:
    at = _rule("cuda", rules='[[rule]]\nsize = ">=30 B"\noffload = "disk"\n')
    assert sorted(path for path, place in at.items() if place == "disk") == [
        "lm_head", "model.embed_tokens", *(f"model.layers.{at}" for at in range(3)),
    ]  # fmt: skip
    at = _rule("cuda", rules='[[rule]]\nclass = "Mlp"\nsize = "<=20 B"\noffload = "disk"\n')
    assert at["model.layers.0.mlp"] == "disk"


def test_a_rule_that_is_exhausted_lets_the_next_one_decide() -> None:
    rules = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda:7"\non_exhausted = "next"\n'
    assert _rule("cuda", rules=rules)["lm_head"] == "cuda:0"
    assert _rule("cuda", rules=rules + '[offload]\nlm_head = "disk"\n')["lm_head"] == "disk"


def test_a_rule_that_is_exhausted_is_an_error_without_next() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "lm_head"\nprefer = {}\n'
    assert refused(text.format('"cuda:7"'), small_llama(), TWO).code == "DP302"
    assert refused(text.format('"cpu"'), small_llama(), TWO).code == "DP405"
    assert where(planned(text.format('["cpu", "cuda:1"]'), small_llama(), TWO))["lm_head"] == "cuda:1"


def test_a_rule_may_run_a_part_on_the_cpu_where_all_runs_there() -> None:
    text = 'prefer = ["cuda", "cpu"]\n[[rule]]\nmatch = "lm_head"\nprefer = "cpu"\n'
    assert device_map(planned(text, small_llama(), machine())) == {"": "cpu"}


def test_a_rule_of_the_whole_model_is_the_first_key() -> None:
    assert device_map(planned('prefer = "cuda"\n[[rule]]\nmatch = "**"\nprefer = "cuda:1"\n', small_llama(), TWO)) == {
        "": "cuda:1"
    }


def test_a_rule_that_matches_nothing_is_a_warning_that_names_it() -> None:
    plan = planned('prefer = "cuda"\n[offload]\n"model.layer.0" = "cpu"\n', small_llama(), TWO)
    assert [(one.code, one.severity) for one in plan.warnings] == [("DP501", "warning")]
    assert "`offload.model.layer.0`" in plan.warnings[0].message


def test_kept_in_the_first_place_with_room() -> None:
    text = budgets('prefer = "cuda"\n[offload]\n"model.layers.*" = ["cpu", "disk"]\n', cuda=500, cpu=60)
    at = where(planned(text, small_llama(), TWO))
    assert [at[f"model.layers.{number}"] for number in range(3)] == ["cpu", "cpu", "disk"]
    only = budgets('prefer = "cuda"\n[offload]\n"model.layers.*" = "cpu"\n', cuda=500, cpu=60)
    assert refused(only, small_llama(), TWO).code == "DP303"


def test_together_alone_keeps_modules_on_one_device() -> None:
    rule = '[[rule]]\nmatch = ["model.embed_tokens", "lm_head"]\ntogether = true\n'
    at = where(planned(f'prefer = "cuda"\nsplit = "balanced"\n{rule}', small_llama(8), FOUR))
    assert at["model.embed_tokens"] == at["lm_head"]
    assert len(set(at.values())) == 4


def test_what_must_be_together_and_does_not_fit_is_refused() -> None:
    rule = '[[rule]]\nmatch = "model.layers.*"\ntogether = true\n'
    assert refused(budgets(f'prefer = "cuda"\n{rule}', cuda=89), small_llama(), FOUR).code == "DP301"
    assert planned(budgets('prefer = "cuda"', cuda=89), small_llama(), FOUR)


def test_tied_modules_held_with_others_are_all_together() -> None:
    rule = '[[rule]]\nmatch = ["lm_head", "model.norm"]\ntogether = true\n'
    at = where(planned(f'prefer = "cuda"\nsplit = "balanced"\n{rule}', small_llama(8, tied=True), FOUR))
    assert at["model.embed_tokens"] == at["lm_head"] == at["model.norm"]


def test_many_rules_on_many_modules_take_linear_time() -> None:
    tree = small_llama(2000)
    rules = "".join(f'[[rule]]\nmatch = "model.layers.{at}"\noffload = "cpu"\n' for at in range(0, 2000, 10))
    assert list(where(planned(f'prefer = "cuda"\n{rules}', tree, TWO)).values()).count("cpu") == 200
