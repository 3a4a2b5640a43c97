"""`--fleet`: plan, why, fit and diff on several nodes."""

import json

import pytest
from tests.cli.harness import invoke

from devpolicy.fleet import FleetPlan

TEXT = """
prefer = "cuda"
[component.writer]
model = "qwen2.5-32b"
[component.embedder]
model = "bge-m3"
replicas = 2
nodes = "spread"
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(TEXT)
    return str(path)


def test_the_json_of_a_plan_is_the_plan(policy):
    made = invoke("plan", policy, "--fleet", "mixed-50", "--format", "json")
    assert made.status == 0, made.stderr
    plan = FleetPlan.from_dict(json.loads(made.stdout))
    assert list(plan.components) == ["writer", "embedder/0", "embedder/1"]


def test_a_component_is_shown_alone_with_its_replicas(policy):
    made = invoke("plan", policy, "--fleet", "mixed-50", "--component", "embedder", "--format", "json")
    assert list(json.loads(made.stdout)["components"]) == ["embedder/0", "embedder/1"]


def test_forms_are_of_each_component_on_its_node(policy):
    made = invoke("plan", policy, "--fleet", "mixed-50", "--to", "hf", "--format", "json")
    assert set(json.loads(made.stdout)) == {"writer", "embedder/0", "embedder/1"}
    alone = invoke("plan", "prefer-accelerator", "--model", "gpt2", "--fleet", "mixed-50", "--to", "torch")
    assert (alone.status, alone.stdout) == (0, "cuda:0\n")


def test_a_plan_is_locked(policy, tmp_path):
    lock = str(tmp_path / "lock.json")
    assert invoke("plan", policy, "--fleet", "mixed-50", "--format", "json", "--output", lock).status == 0
    assert invoke("plan", policy, "--fleet", "mixed-50", "--locked", lock).status == 0
    other = invoke("plan", policy, "--fleet", "8x8-h100", "--locked", lock)
    assert other.status == 1
    assert "writer: w3090-0 -> rack-a-0" in other.stderr


def test_a_plan_from_one_that_runs_says_what_moves(policy, tmp_path):
    runs = str(tmp_path / "runs.json")
    invoke("plan", policy, "--fleet", "mixed-50", "--format", "json", "--output", runs)
    same = invoke("plan", policy, "--fleet", "mixed-50", "--from", runs)
    assert "nothing moves" in same.stdout
    told = json.loads(invoke("plan", policy, "--fleet", "8x8-h100", "--from", runs, "--format", "json").stdout)
    assert told["moves"][0] == {"component": "writer", "from": "w3090-0", "to": "rack-a-0", "restarts": False}


def test_diff_says_what_a_lost_node_moves(policy):
    made = invoke("diff", policy, policy, "--fleet", "mixed-50", "--lost", "w3090-0")
    assert made.status == 1
    assert "writer: w3090-0 -> w3090-1" in made.stdout
    assert invoke("diff", policy, policy, "--fleet", "mixed-50").status == 0


def test_why_names_the_node(policy):
    made = invoke("why", policy, "lm_head", "--component", "writer", "--fleet", "mixed-50")
    assert made.stdout.startswith("node: w3090-0\n")
    assert "lm_head: on cuda:2" in made.stdout


def test_fit_asks_each_kind_of_node():
    made = invoke("fit", "prefer-accelerator", "--model", "gpt2", "--fleet", "mixed-50", "--format", "json")
    assert {one["host"] for one in json.loads(made.stdout)["fits"]} >= {"t4-0 and 7 alike", "h200"}


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--fleet", "mixed-5"), 2, "did you mean `mixed-50`?"),
        (("--fleet", "mixed-50", "--host", "t4"), 2, "`--host` and `--fleet` do not go together"),
        (("--fleet", "mixed-50", "--certify"), 2, "`--certify` and `--fleet`"),
        (("--fleet", "mixed-50", "--model", "gpt2"), 2, "--model writer=MODEL"),
        (("--fleet", "mixed-50", "--component", "writr"), 2, "did you mean `writer`?"),
        (("--from", "x.json"), 2, "`--from` needs `--fleet`"),
        (("--fleet", "mixed-50", "--from", "nowhere.json"), 2, "cannot read"),
        (("--fleet", "laptop-and-server", "--set", "prefer=xpu"), 3, "DP308"),
    ],
)
def test_what_cannot_be_planned_says_so(policy, arguments, status, told):
    made = invoke("plan", policy, *arguments)
    assert made.status == status
    assert told in made.stderr


@pytest.mark.parametrize("arguments", [("--lost", "a"), ("--new-fleet", "mixed-50")])
def test_diff_of_hosts_loses_no_node(policy, arguments):
    assert "need `--fleet`" in invoke("diff", policy, policy, *arguments).stderr
