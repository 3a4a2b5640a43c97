"""`--fleet`: plan, why, fit and diff on several nodes."""

import json
from dataclasses import replace

import pytest
from tests.cli.harness import invoke

from devpolicy import Host, Policy
from devpolicy.fleet import Fleet, FleetPlan, plan_fleet

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


def test_why_tells_programs_what_it_tells_people(policy):
    asked = ("why", policy, "lm_head", "--component", "writer", "--fleet", "mixed-50")
    told = json.loads(invoke(*asked, "--format", "json").stdout)
    assert (told["node"], told["placements"]["lm_head"]["device"]) == ("w3090-0", "cuda:2")
    assert told["prefer"] == [{"term": "cuda", "outcome": "fits"}]
    assert {"node": "h200", "reason": "it is larger, and a smaller node does"} in told["elsewhere"]


@pytest.mark.parametrize("form", ["human", "json"])
def test_why_of_no_module_is_an_error(policy, form):
    asked = ("why", policy, "lm_haed", "--component", "writer", "--fleet", "mixed-50", "--format", form)
    made = invoke(*asked)
    assert made.status == 2
    assert "did you mean `lm_head`?" in made.stderr + made.stdout


def test_fit_keeps_to_the_labels_that_a_component_asks_for(policy):
    """It said that a component fits on nodes on which it may not be."""
    asked = ("fit", policy, "--component", "embedder", "--fleet", "mixed-50", "--set")
    labels = 'component.embedder.node={ labels = { zone = "b" } }'
    told = json.loads(invoke(*asked, labels, "--format", "json").stdout)
    assert {one["reason"] for one in told["fits"] if not one["fits"]} == {"it has no label `zone = b`"}
    names = [node for one in told["fits"] if one["fits"] for node in one["nodes"]]
    fleet = Fleet.load("mixed-50")
    assert sorted(names) == sorted(node for node in fleet if fleet.labels(node).get("zone") == "b")


def test_a_plan_is_a_picture(policy, tmp_path):
    """`--format svg` was not heard."""
    made = invoke("plan", policy, "--fleet", "mixed-50", "--format", "svg")
    assert made.stdout.startswith("<svg ")
    assert all(f"{name} on " in made.stdout for name in ("writer", "embedder/0", "embedder/1"))
    assert "a PNG is not text" in invoke("plan", policy, "--fleet", "mixed-50", "--format", "png").stderr


def test_json_of_a_fleet_is_no_command_of_a_ci_log(policy):
    fleet = Fleet({"##[error]x": Host.load("4x80gb"), "##[group]y": Host.load("t4")})
    plan = plan_fleet(Policy.load(policy), None, fleet)
    assert "##[" not in plan.to_json()
    assert FleetPlan.from_dict(json.loads(plan.to_json())) == plan
    alone = plan.components["writer"].plan
    assert "##[" not in replace(alone, component="##[error]x").to_json()


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
