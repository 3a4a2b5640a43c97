"""`--profile`, `--set` and the environment: what the commands lay over a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy._shipped import shipped_files

POLICY = """
prefer = ["cuda", "cpu"]
[profile.quiet]
avoid = "cuda"
[profile.ci]
when = { env.CI = true }
prefer = "cpu"
[memory.cuda]
headroom = "1 GiB"
[profile.pair]
when = { cuda = 2 }
memory.cuda.headroom = "2 GiB"
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("DEVPOLICY_PROFILE", raising=False)
    (tmp_path / "p.toml").write_text(POLICY, encoding="utf-8")


def chosen(*options: str) -> str:
    result = invoke("resolve", "p.toml", "--host", "2x24gb", "--to", "torch", *options)
    assert result.status == 0
    return result.stdout


@pytest.mark.parametrize(
    ("options", "environment", "device"),
    [
        ((), {}, "cuda:0"),
        (("--profile", "quiet"), {}, "cpu"),
        ((), {"DEVPOLICY_PROFILE": "quiet"}, "cpu"),
        ((), {"DEVPOLICY_PROFILE": ""}, "cuda:0"),
        ((), {"CI": "1"}, "cpu"),
        (("--set", "prefer=cuda:1"), {"CI": "1"}, "cuda:1"),
        (("--set", "avoid=cuda:0"), {}, "cuda:1"),
        (("--profile", "ci"), {"DEVPOLICY_PROFILE": "no-such"}, "cpu"),
    ],
)
def test_a_device_is_chosen_with_what_is_laid_over(options, environment, device, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert device in chosen(*options)


def test_a_profile_that_the_environment_names_and_nobody_has_is_told_as_such(monkeypatch):
    monkeypatch.setenv("DEVPOLICY_PROFILE", "quit")
    result = invoke("plan", "p.toml", "--host", "2x24gb", "--model", "gpt2")
    assert result.status == 2
    assert "did you mean `quiet`?" in result.stderr
    assert "`DEVPOLICY_PROFILE` names it" in result.stderr


def test_wrong_values_exit_with_2_and_show_what_was_given():
    result = invoke("why", "p.toml", "lm_head", "--model", "gpt2", "--host", "2x24gb", "--set", "spilt=never")
    assert result.status == 2
    assert "--> --set:1:1" in result.stderr
    assert "did you mean `split`?" in result.stderr


def test_what_is_laid_over_a_policy_does_not_take_its_name():
    for option in ("--set", "split=balanced"), ("--what-if", "batch=2"), ("--profile", "quiet"):
        told = invoke("plan", "laptop-and-server", "--model", "gpt2", "--host", "2x24gb", *option)
        assert told.stdout.splitlines()[0].split() == ["policy", "laptop-and-server.toml"]


def test_show_without_a_policy_lists_those_that_ship():
    told = json.loads(invoke("show", "--format", "json").stdout)
    assert [one["name"] for one in told["policies"]] == list(shipped_files("policy"))
    assert all(one["description"].endswith(".") for one in told["policies"])
    assert (Path(told["folder"]) / "offload-lm-head.toml").is_file()
    assert "Everything on the CPU, whatever else the machine has." in invoke("show").stdout


def test_show_tells_origins_to_programs(monkeypatch):
    result = invoke("show", "p.toml", "--host", "2x24gb", "--set", "split=never", "--format", "json")
    shown = json.loads(result.stdout)
    values = {one["key"]: (one["value"], one["origin"] and one["origin"]["line"]) for one in shown["values"]}
    assert values["split"] == ("never", 1)
    assert values["memory.cuda.headroom"] == ("2 GiB", 12)
    assert values["overflow"] == ("nowhere", None)
    assert shown["profiles"] == {"quiet": False, "ci": False, "pair": True}


def test_what_a_plan_may_use_of_a_host_follows_the_profiles_too():
    told = json.loads(invoke("host", "show", "2x24gb", "--policy", "p.toml", "--format", "json").stdout)
    assert told["budgets"]["cuda:0"]["headroom"] == 2 << 30
