"""`--profile`, `--set` and the environment: what the commands lay over a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.harness import invoke, shell

from devpolicy._core.shipped import shipped_files

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


def test_a_profile_of_the_environment_that_nobody_has_is_told(monkeypatch):
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


TESTED = """
prefer = ["cuda", "cpu"]
[profile.quiet]
prefer = "cpu"
[profile.pair]
when = { cuda = 2 }
split = "balanced"
[[test]]
name = "says no profile"
host = "2x24gb"
model = "gpt2"
expect = "cpu"
[[test]]
name = "says its own"
host = "2x24gb"
model = "gpt2"
profile = "pair"
expect = { "transformer.h.11" = "cuda:1" }
"""


def failed(*options: str, **environment: str) -> list[str]:
    """Return the tests that fail, of `devpolicy test` as a process of its own."""
    Path("tested.toml").write_text(TESTED, encoding="utf-8")
    told = json.loads(shell("test", "tested.toml", "--format", "json", *options, **environment).stdout)
    return [test["name"] for test in told["files"][0]["tests"] if not test["passed"]]


@pytest.mark.parametrize(
    ("options", "fails"),
    [
        ((), ["says no profile"]),
        (("--profile", "quiet"), []),
        (("--set", "prefer=cpu"), ["says its own"]),
        (("--profile", "quiet", "--set", "prefer=cuda"), ["says no profile"]),
    ],
)
def test_a_profile_is_for_tests_that_name_none(options, fails):
    assert failed(*options) == fails


def test_tests_do_not_depend_on_the_environment():
    assert failed(DEVPOLICY_PROFILE="quiet") == ["says no profile"]


@pytest.mark.parametrize(
    ("options", "environment", "moved"),
    [
        (("--profile", "quiet"), {}, []),
        ((), {"DEVPOLICY_PROFILE": "quiet"}, []),
        ((), {"DEVPOLICY_PROFILE": ""}, ["2x24gb"]),
        (("--set", "prefer=cpu"), {}, []),
        (("--profile", "pair"), {"DEVPOLICY_PROFILE": "quiet"}, ["2x24gb"]),
    ],
)
def test_two_policies_are_compared_with_what_is_laid_over_both(options, environment, moved):
    Path("a.toml").write_text(TESTED, encoding="utf-8")
    Path("b.toml").write_text(TESTED.replace('["cuda", "cpu"]', '"cuda:1"'), encoding="utf-8")
    hosts = ("--host", "2x24gb", "--model", "gpt2", "--format", "json")
    result = shell("diff", "a.toml", "b.toml", *hosts, *options, **environment)
    told = json.loads(result.stdout)
    assert [one["on"] for one in told["differences"]] == moved
    assert result.status == bool(moved)
    assert told["profile"] == (
        "pair" if "pair" in options else "quiet" if "quiet" in str((options, environment)) else None
    )
    assert told["set"] == [one for one in options if "=" in one]


@pytest.mark.parametrize(
    ("options", "environment", "status"),
    [
        ((), {}, "broken"),
        (("--profile", "quiet"), {}, "proved"),
        ((), {"DEVPOLICY_PROFILE": "quiet"}, "proved"),
        (("--set", "avoid=cuda"), {}, "proved"),
    ],
)
def test_a_property_is_held_against_what_is_laid_over_the_policy(options, environment, status):
    Path("p.toml").write_text(TESTED, encoding="utf-8")
    space = ("--accelerators", "1", "--model", "gpt2", "-p", "never_on:cuda", "--format", "json")
    (verdict,) = json.loads(shell("verify", "p.toml", *space, *options, **environment).stdout)["verdicts"]
    assert verdict["status"] == status


def test_a_counterexample_is_a_test_that_fails_again():
    Path("p.toml").write_text(TESTED, encoding="utf-8")
    asked = ("--set", "workload.context=99", "-p", "never_on:cpu", "--accelerators", "1", "--model", "gpt2")
    shown = shell("verify", "p.toml", *asked, DEVPOLICY_PROFILE="quiet").stdout
    assert "\nprofile  quiet\nset      workload.context=99\n" in shown
    assert "\n  # with --set workload.context=99\n" in shown
    pasted = shown.partition("\n  [host.smallest]")[1:]
    Path("again.toml").write_text(TESTED + "".join(pasted), encoding="utf-8")
    result = invoke("test", "again.toml", "--run", "never_on")
    assert result.status == 1
    assert "`cpu` fits" in result.stdout


@pytest.mark.parametrize("command", [("test",), ("diff", "cpu-only"), ("verify",)])
def test_what_cannot_be_laid_over_is_told_at_once(command):
    Path("p.toml").write_text(TESTED, encoding="utf-8")
    for options, told in [
        (("--profile", "quit"), "did you mean `quiet`?"),
        (("--set", "spilt=never"), "did you mean `split`?"),
        (("--set", "split"), "sets nothing"),
    ]:
        first, *rest = command
        result = invoke(first, "p.toml", *rest, *options)
        assert (result.status, result.stdout) == (2, "")
        assert told in result.stderr


def test_a_profile_of_the_environment_is_told_as_such(monkeypatch):
    monkeypatch.setenv("DEVPOLICY_PROFILE", "quit")
    for arguments in (("verify", "p.toml"), ("diff", "p.toml", "cpu-only")):
        assert "`DEVPOLICY_PROFILE` names it" in invoke(*arguments).stderr
