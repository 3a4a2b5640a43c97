"""Policies that are tested on fleets: `[[test]] fleet`, `verify --fleet`, `survives`."""

import json

import pytest
from tests.cli.harness import invoke

from devpolicy import Policy, PolicyError
from devpolicy._core.language.properties import parse_property
from devpolicy.errors import DevPolicyError
from devpolicy.fleet import Fleet

POLICY = """
prefer = "cuda"
[component.writer]
model = "llama-3.1-8b"
[component.embedder]
model = "bge-m3"
replicas = 2
nodes = "spread"
"""
GOOD = """
[[test]]
name = "the writer is on a small card"
fleet = "mixed-50"
component = "writer"
expect = "cuda:0"
expect_node = "l4-*"
always = ["survives:1", "within_budget", "same_each_time", "placed_or_refused"]

[[test]]
name = "copies are on small cards"
fleet = "mixed-50"
component = "embedder"
expect_node = ["t4-0", "t4-1"]

[[test]]
name = "no such fleet has a place"
fleet = "tiny.toml"
expect_error = "DP308"
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tiny.toml").write_text('[node.a]\nhost = "cpu-only"\n')

    def test(text: str):
        (tmp_path / "policy.toml").write_text(POLICY + text)
        return invoke("test", str(tmp_path / "policy.toml"), "--format", "json", "-j", "1")

    return test


def test_tests_of_fleets_pass(run):
    made = run(GOOD)
    assert made.status == 0, made.stdout
    assert json.loads(made.stdout)["summary"]["passed"] == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('component = "writer"\nexpect_node = "t4-*"', "`writer` is on `l4-0`, and `t4-*` was expected"),
        ('component = "embedder"\nexpect_node = "t4-0"', "`embedder/1` is on `t4-1`"),
        ('component = "writer"\nexpect = "cpu"', "`cpu` was expected"),
        ('expect_error = "DP308"', "it is placed, and DP308 was expected"),
        ('always = "never_on:cuda"', "`never_on:cuda` does not hold"),
    ],
)
def test_what_is_not_so_fails(run, wrong, told):
    made = run(f'[[test]]\nname = "x"\nfleet = "mixed-50"\n{wrong}\n')
    assert made.status == 1
    assert told in made.stdout


def test_a_fleet_that_cannot_lose_a_node_does_not_survive(run):
    made = run('[[test]]\nname = "x"\nfleet = "4-workstations"\nalways = "survives:3"\n')
    assert made.status == 1
    assert "`survives:3` does not hold: without" in made.stdout


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('fleet = "mixed-50"\nhost = "t4"\nalways = "survives:1"', "`fleet` and `host`"),
        ('fleet = "mixed-50"\nvary = { "cuda.count" = [1] }\nalways = "survives:1"', "`fleet` and `vary`"),
        ('host = "t4"\nalways = "survives:1"', "`always` is about nodes"),
        ('host = "t4"\nexpect_node = "a"', "`expect_node` is about nodes"),
        ('fleet = "mixed-5"\nalways = "survives:1"', "did you mean `mixed-50`?"),
        ('fleet = "mixed-50"\nalways = "survives:0"', "a number of nodes"),
        ('fleet = "mixed-50"\nalways = "survive:1"', "did you mean `survives`?"),
        ('fleet = "mixed-50"\nexpect_node = "a"\nexpect_error = "DP308"', "leave one out"),
        ('fleet = "mixed-50"', "asserts nothing"),
        ('fleet = "mixed-50"\nexpect_node = "l4-0"', "expects something of one of several components"),
    ],
)
def test_a_malformed_test_is_refused(run, keys, told):
    made = run(f'[[test]]\nname = "x"\n{keys}\n')
    assert made.status == 2
    assert told in json.dumps(json.loads(made.stdout), ensure_ascii=False)


def test_verify_holds_a_fleet_and_its_neighbours(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    made = invoke("verify", str(path), "--fleet", "mixed-50", "--format", "json")
    assert made.status == 0, made.stderr
    told = {one["property"]: (one["status"], one["fleets"]) for one in json.loads(made.stdout)["verdicts"]}
    assert told == {"placed_or_refused": ("proved", 17), "within_budget": ("proved", 17), "survives:1": ("proved", 1)}


def test_verify_shows_which_node_is_missed(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.replace("llama-3.1-8b", "qwen2.5-32b"))
    made = invoke("verify", str(path), "--fleet", "4-workstations", "-p", "survives:1")
    assert made.status == 1
    assert "broken  survives:1: without `darwin`" in made.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-p", "survives:1"), "`survives` is a property of a fleet"),
        (("--fleet", "mixed-50", "-p", "monotone"), "a family of hosts"),
        (("--fleet", "nowhere", "-p", "survives:1"), "no fleet is named"),
    ],
)
def test_verify_asks_fleets_what_is_theirs(tmp_path, arguments, told):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    assert told in invoke("verify", str(path), *arguments).stderr


def test_a_property_is_written_as_it_is_read():
    assert str(parse_property("survives:2")) == "survives:2"
    with pytest.raises(DevPolicyError):
        parse_property("survives")


def test_a_test_of_a_fleet_has_a_place():
    with pytest.raises(PolicyError) as refused:
        Policy.parse(POLICY + '[[test]]\nname = "x"\nhost = "t4"\nexpect_node = 3\n')
    assert refused.value.diagnostics[0].place.line == 12
    assert Fleet.load("mixed-50")
