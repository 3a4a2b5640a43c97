"""Components on the command line: all of them planned together, one of them beside the others, locks and pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.harness import invoke

import devpolicy
from devpolicy._core.cli.joint_view import joint_view
from devpolicy._core.cli.output import STYLES, Output, plain
from devpolicy._core.simulation.catalogue import host_catalogue

RAG = """prefer = ["cuda", "mps", "cpu"]

[component.embedder]
model  = "bert-base"
target = "torch"

[component.ranker]
needs = "2 GiB"

[component.generator]
model   = "llama-3.2-1b"
offload = { "model.layers.0" = "disk" }
"""
HOST = ("--host", "1x24gb")


@pytest.fixture
def rag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rag.toml").write_text(RAG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return "rag.toml"


def told(*arguments: str) -> Any:
    result = invoke(*arguments, "--format", "json")
    assert result.status == 0, result.stderr
    return json.loads(result.stdout)


def test_without_a_component_all_are_planned_in_order(rag: str) -> None:
    plans = devpolicy.plan_all(rag, host="1x24gb")
    assert list(plans) == ["embedder", "ranker", "generator"]
    expected = {"schema": 1, "components": {name: plan.to_dict() for name, plan in plans.items()}}
    assert told("plan", rag, *HOST) == expected


def test_a_model_on_the_command_line_replaces_the_policys(rag: str) -> None:
    models = ("--model", "generator=llama-3.1-8b", "--model", "ranker=gpt2")
    plans = devpolicy.plan_all(rag, {"generator": "llama-3.1-8b", "ranker": "gpt2"}, "1x24gb")
    assert told("plan", rag, *models, *HOST)["components"] == {name: plan.to_dict() for name, plan in plans.items()}


@pytest.mark.parametrize("name", ["embedder", "ranker", "generator"])
def test_one_component_is_shown_as_it_is_beside_those_before_it(name: str, rag: str) -> None:
    plans = devpolicy.plan_all(rag, host="1x24gb")
    assert told("plan", rag, "--component", name, *HOST) == plans[name].to_dict()
    assert told("resolve", rag, "--component", name, *HOST)["device"] == plans[name].device.to_dict()
    why = told("why", rag, "", "--component", name, *HOST)
    assert why["placements"] == plans[name].to_dict()["placements"]


def test_a_model_without_a_name_is_that_of_the_component(rag: str) -> None:
    made = devpolicy.plan(rag, "gpt2", "1x24gb", component="ranker")
    assert told("plan", rag, "--component", "ranker", "--model", "gpt2", *HOST) == made.to_dict()
    assert made.ledger["cuda:0"].used_by_others > 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("plan", "--component", "rankr"), 2, "did you mean `ranker`?"),
        (("resolve", "--component", "rankr"), 2, "did you mean `ranker`?"),
        (("why", "lm_head", "--component", "generatr"), 2, "did you mean `generator`?"),
        (("plan", "--model", "gpt2"), 2, "name one: `--model embedder=gpt2`, or `--component embedder` for it alone"),
        (("why", "lm_head"), 2, "name the component: `--component embedder`"),
        (("why", "lm_heed", "--component", "generator"), 2, "did you mean `lm_head`?"),
        (("plan", "--model", "generator=mixtral-8x22b"), 3, "component `generator`: "),
        (("plan", "--to", "torch"), 3, "component `generator`: rule `component.generator.offload.model.layers.0`"),
    ],
)
def test_what_is_wrong_is_told_by_name(arguments: tuple[str, ...], status: int, said: str, rag: str) -> None:
    command, *rest = arguments
    result = invoke(command, rag, *rest, *HOST)
    assert (result.status, result.stdout) == (status, "")
    assert said in result.stderr


def test_a_component_without_a_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('prefer = "cpu"\n[component.a]\n', encoding="utf-8")
    result = invoke("plan", str(tmp_path / "p.toml"), *HOST)
    assert result.status == 2
    assert "error[DP105]: no model is given for component `a`" in result.stderr


# Locks.


def test_all_components_are_locked_together(rag: str) -> None:
    assert invoke("plan", rag, *HOST, "--format", "json", "--output", "lock.json").status == 0
    same = invoke("plan", rag, *HOST, "--locked", "lock.json")
    assert same.status == 0
    assert "unchanged, as in lock.json" in same.stdout
    moved = invoke("plan", rag, "--host", "1x8gb", "--model", "ranker=llama-3.1-8b", "--locked", "lock.json")
    assert moved.status == 1
    assert "error[DP505]: the plan of `ranker` is not the one in `lock.json`" in moved.stderr
    assert "`embedder`" not in moved.stderr
    Path(rag).write_text(RAG.replace("component.ranker", "component.judge"), encoding="utf-8")
    renamed = invoke("plan", rag, *HOST, "--locked", "lock.json")
    assert renamed.status == 1
    assert "holds `embedder`, `ranker`, `generator`, and planned is `embedder`, `judge`, `generator`" in renamed.stderr


# What it looks like.


@pytest.mark.parametrize("host", sorted(host_catalogue()))
def test_components_fit_eighty_columns_in_known_styles(host: str) -> None:
    policy, machine = devpolicy.Policy.load("rag-pipeline"), devpolicy.Host.load(host)
    models = {name: devpolicy.ModelTree.load(model) for name, model in (("embedder", "bge-m3"), ("generator", "gpt2"))}
    try:
        plans = devpolicy.plan_all(policy, models, machine)
    except devpolicy.Unsatisfiable:
        return
    lines = joint_view(plans, policy, {"ranker": None, **models}, machine, Output(io.StringIO()))
    assert max(len(plain(line)) for line in lines) <= 80
    assert {style for line in lines if not isinstance(line, str) for _, style in line} <= set(STYLES)


def test_the_figures_add_up_to_each_device_s_cap(rag: str) -> None:
    shown = invoke("plan", rag, *HOST).stdout
    figures = shown[shown.index("  in GiB") :].splitlines()
    card = figures[2 : figures.index("  disk")]
    *parts, cap = [float(line.split()[-1]) for line in card if not line.endswith("-")]
    assert sum(parts) == pytest.approx(cap, abs=0.03)
    assert [line.split()[0] for line in card] == ["embedder", "ranker", "generator", "headroom", "free", "cap"]


def test_many_components_with_long_names_are_drawn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"component-with-a-long-name-{number}" for number in range(9)]
    entries = "".join(f"[component.{name}]\nneeds = '1 GiB'\n" for name in names)
    (tmp_path / "many.toml").write_text(f"prefer = 'cpu'\n{entries}", encoding="utf-8")
    shown = invoke("plan", "many.toml", "--host", "8x80gb").stdout
    (bar,) = [line for line in shown.splitlines() if line.startswith("  cpu  │")]
    assert len(set(bar.partition("│")[2].partition("│")[0]) - {" ", "·"}) == len(names)
    assert max(map(len, shown.splitlines())) <= 80


def test_a_pool_shows_what_its_other_side_takes(tmp_path: Path) -> None:
    text = 'prefer = "mps"\n[component.a]\nneeds = "2 GiB"\n[component.b]\nprefer = "cpu"\nneeds = "4 GiB"\n'
    (tmp_path / "pool.toml").write_text(text, encoding="utf-8")
    shown = invoke("plan", str(tmp_path / "pool.toml"), "--host", "macbook-m3-36gb").stdout
    assert "▞ others" in shown


# Check.


CHECKED = """prefer = "cpu"

[offload]
lm_head = "disk"
nowhere = "disk"

[component."*"]
offload = { "model.norm" = "disk", "no.such" = "disk" }

[component.reader]
model = "bert-base"

[component.writer]
model = "llama-3.2-1b"
offload = { "model.layers.99" = "disk" }
"""


def checked(tmp_path: Path, text: str, *arguments: str) -> list[tuple[str, str, int]]:
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    (policy,) = json.loads(invoke("check", str(tmp_path / "p.toml"), *arguments, "--format", "json").stdout)["policies"]
    return [(one["code"], one["severity"], one["place"]["line"]) for one in policy["findings"]]


def test_check_compares_rules_of_components_with_models(tmp_path: Path) -> None:
    assert sorted(checked(tmp_path, CHECKED), key=lambda one: one[2]) == [
        ("DP501", "warning", 5),  # in neither model
        ("DP501", "warning", 8),
        ("DP501", "error", 15),  # its own
    ]


def test_check_takes_a_model_for_a_component(tmp_path: Path) -> None:
    found = checked(tmp_path, CHECKED, "--model", "writer=bert-base")
    assert sorted(found, key=lambda one: one[2]) == [
        ("DP501", "warning", 4),  # no model has a head any more
        ("DP501", "warning", 5),
        ("DP501", "warning", 8),
        ("DP501", "warning", 8),
        ("DP501", "error", 15),
    ]


def test_check_of_a_model_that_is_not_here_is_a_warning(tmp_path: Path) -> None:
    text = 'prefer = "cpu"\n[component.a]\nmodel = "./checkpoint"\n'
    assert checked(tmp_path, text) == [("DP202", "warning", 3)]
    assert invoke("check", str(tmp_path / "p.toml")).status == 0
    assert invoke("check", str(tmp_path / "p.toml"), "--strict").status == 1


@pytest.mark.parametrize("command", [("plan",), ("check",)])
@pytest.mark.parametrize(("model", "said"), [("=gpt2", "component"), ("a=", "model"), ("=", "model"), ("", "model")])
def test_half_a_name_is_told_as_such_and_never_suggested_back(
    command: tuple[str, ...], model: str, said: str, rag: str
) -> None:
    for more in ((), ("--model", "gpt2")):
        result = invoke(*command, rag, "--model", model, *more)
        assert result.status == 2
        assert result.stderr.startswith(
            f"error: `--model {model}` names no {said}\n  = help: write `--model NAME=MODEL`"
        )


def test_a_component_of_any_name_is_given_a_model(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cpu"\n[component."2nd réader.x y"]\nneeds = "1 GiB"\n', encoding="utf-8")
    result = invoke("plan", str(policy), "--host", "cpu-only", "--model", "2nd réader.x y=gpt2", "--format", "json")
    plans = json.loads(result.stdout)["components"]
    assert [(name, len(plan["placements"]) > 1) for name, plan in plans.items()] == [("2nd réader.x y", True)]


def test_check_tells_a_model_for_a_component_that_no_policy_has(tmp_path: Path) -> None:
    """It was read, compared with nothing, and nothing was said."""
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cpu"\n[component.reader]\n[profile.p.component.ranker]\nneeds = "1 GiB"\n')
    for name, status, said in [("reader", 0, ""), ("ranker", 0, ""), ("raeder", 2, "did you mean `reader`?")]:
        result = invoke("check", str(policy), "--model", f"{name}=gpt2")
        assert result.status == status
        assert said in result.stderr
    assert "without a name is for every policy" in invoke("check", "cpu-only", "--model", "a=gpt2").stderr
