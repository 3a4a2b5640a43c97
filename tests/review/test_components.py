"""Tests and properties of policies with components: one beside those before it, or all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from devpolicy import Host, ModelTree, Policy
from devpolicy._core.language.properties import Property
from devpolicy._core.review.check import violations
from devpolicy._core.review.coverage import coverage, deciders
from devpolicy._core.review.evaluate import evaluate
from devpolicy._core.review.host_space import HostSpace
from devpolicy._core.review.outcome import plan_outcome, plan_outcomes
from devpolicy._core.review.run import Result
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import bind_policy
from devpolicy._core.review.verify import verify
from devpolicy._core.sizes import GIB
from devpolicy.errors import PolicyError

RAG = """
prefer = ["cuda", "cpu"]

[component.embedder]
needs = "4 GiB"

[component.generator]
model = "llama-3.2-1b"
prefer = "cuda"

[[component.generator.rule]]
name   = "first layer"
match  = "model.layers.0"
offload = "cpu"
"""


def result(test: str, policy: str = RAG) -> Result:
    suite = bind_policy(Policy.parse(f'{policy}\n[[test]]\nname = "t"\n{test}\n', "p.toml"), "p.toml")
    (found,) = run_all([suite], jobs=1)
    return found


def test_a_component_is_planned_beside_those_before_it() -> None:
    generator = 'component = "generator"\nvary = { "cuda.free" = "7 GiB" }\n'
    placed = 'expect = { model.norm = "cuda:0", "model.layers.0" = "cpu" }\nby = { model.layers.0 = "first layer" }'
    # Where the embedder may be on the CPU too, it gives way.
    stays = RAG.replace('needs = "4 GiB"', 'needs = "4 GiB"\nprefer = "cuda"')
    assert result('host = "1x8gb"\ncomponent = "generator"\nexpect_error = "DP301"', stays).passed
    assert result(f'host = "1x24gb"\ncomponent = "generator"\n{placed}').passed
    assert not result(f'host = "1x24gb"\n{generator}{placed}', stays).passed
    assert result(f'host = "1x24gb"\n{generator}{placed}').passed
    alone = RAG.replace('needs = "4 GiB"', 'needs = "1 GiB"')
    assert result(f'host = "1x24gb"\n{generator}{placed}', alone).passed


def test_a_component_of_bytes_has_a_device() -> None:
    assert result('hosts = ["1x24gb", "2x24gb"]\ncomponent = "embedder"\nexpect = "cuda:0"').passed
    assert result('host = "cpu-only"\ncomponent = "embedder"\nexpect = "cpu"').passed


def test_without_a_component_what_must_hold_holds_for_each() -> None:
    found = result('hosts = ["2x24gb", "cpu-only"]\nalways = ["within_budget", "never_on:cpu"]')
    said = [failure.what for case in found.cases for failure in case.failures]
    assert [text.partition(":cpu")[2].partition(":")[0] for text in said] == [
        "` does not hold for `generator`",
        "` does not hold for `embedder`",
    ]
    assert result('host = "cpu-only"\nexpect_error = "DP301"').passed


def test_the_budget_counts_all_components_together() -> None:
    host = Host.load("1x24gb")
    *_, generator = plan_outcomes(Policy.parse(RAG), None, host)
    assert generator.component == "generator"
    assert len(generator.before) == 1
    assert not list(violations(Property("within_budget"), generator))
    tight = replace(host, accelerators=tuple(replace(one, free=6 * GIB) for one in host.accelerators))
    (said,) = violations(Property("within_budget"), replace(generator, host=tight))
    assert "asked for" in said
    assert not list(violations(Property("within_budget"), replace(generator, host=tight, before=())))


def test_coverage_names_what_a_component_says_by_the_component() -> None:
    policy = Policy.parse(RAG)
    assert deciders(policy) == ["prefer cuda", "prefer cpu", "component.generator prefer cuda", "first layer"]
    suite = bind_policy(Policy.parse(f'{RAG}\n[[test]]\nname = "t"\nhost = "2x24gb"\nalways = "one_type"\n'), "p.toml")
    (found,) = coverage([suite], run_all([suite], jobs=1))
    assert found.never == ["prefer cpu"]


def test_properties_hold_of_all_components_on_every_host() -> None:
    space = HostSpace(("cuda",), 1, (8 * GIB, 24 * GIB), (100,), (64 * GIB,))
    wanted = [Property(name) for name in ("within_budget", "monotone", "every_rule_reachable", "always_resolves")]
    verdicts = {verdict.property.name: verdict for verdict in verify(Policy.parse(RAG), [None], space, wanted, jobs=1)}
    assert [name for name, verdict in verdicts.items() if verdict.status == "proved"] == list(verdicts)[:3]
    assert verdicts["always_resolves"].why.startswith("of `generator`: it is refused with DP301")


def test_a_model_that_is_given_takes_the_place_of_the_policys() -> None:
    larger = ModelTree.load("llama-3.1-8b")
    assert plan_outcome(Policy.parse(RAG), larger, Host.load("2x24gb"), component="generator").tree == larger
    given = 'component = "generator"\nmodel = "llama-3.1-8b"\n'
    assert result(f'host = "2x24gb"\n{given}expect = {{ "model.layers.31" = "cuda:0" }}').passed


@pytest.mark.parametrize(
    ("test", "code", "said"),
    [
        ('component = "generatr"\nexpect = "cuda:0"', "DP202", "did you mean `generator`?"),
        ('expect = "cuda:0"', "DP105", "known are `embedder`, `generator`"),
        ('component = "generator"\nexpect = { lm_heed = "cuda:0" }', "DP202", "did you mean `lm_head`?"),
        ('component = "generator"\nby = { lm_head = "frist layer" }', "DP202", "did you mean `first layer`?"),
        ('component = "embedder"\nexpect = { lm_head = "cuda:0" }', "DP105", "add `model`"),
    ],
)
def test_what_a_test_says_of_components_is_looked_up(test: str, code: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        result(f'host = "2x24gb"\n{test}')
    (finding,) = refused.value.diagnostics
    assert (finding.code, said in finding.help) == (code, True), finding


def test_a_policy_without_components_has_none_to_test() -> None:
    with pytest.raises(PolicyError, match="leave `component` out"):
        result('host = "2x24gb"\ncomponent = "x"\nexpect = "cpu"', 'prefer = "cpu"')


def test_each_component_of_many_is_planned_once_for_a_host(monkeypatch) -> None:
    from devpolicy._core.planning import wishes

    asked: list[str | None] = []
    make_plan = wishes.make_plan

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[0].component)
        return make_plan(*arguments, **options)

    monkeypatch.setattr(wishes, "make_plan", counted)
    text = 'prefer = ["cuda", "cpu"]\n' + "".join(f"[component.c{i}]\nneeds = '1 GiB'\n" for i in range(40))
    found = plan_outcomes(Policy.parse(text), None, Host.load("8x80gb"))
    assert asked == [f"c{i}" for i in range(40)]
    assert [len(one.before) for one in found] == list(range(40))


def test_properties_of_components_cost_a_count_and_a_plan(monkeypatch) -> None:
    from devpolicy._core.planning import wishes
    from devpolicy._core.review import outcome

    asked = {"recount": 0, "make_plan": 0}

    def counting(module: Any, name: str) -> None:
        before = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            asked[name] += 1
            return before(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    counting(outcome, "recount")
    counting(wishes, "make_plan")
    text = 'prefer = ["cuda", "cpu"]\n' + "".join(f"[component.c{i}]\nneeds = '1 GiB'\n" for i in range(40))
    wanted = [Property(name) for name in ("within_budget", "same_each_time")]
    assert evaluate(Policy.parse(text), None, Host.load("8x80gb"), wanted).wrong == {}
    # Once as what is judged, and once as what is there before: not once more for each that comes behind.
    assert asked["recount"] <= 80
    assert asked["make_plan"] <= 80
