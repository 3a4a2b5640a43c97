"""`--what-if` and `--certify`: what is told beside a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.harness import invoke

POLICY = 'prefer = "cuda"\noverflow = "cpu"\nsplit = "fastest"\n'


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return str(file)


def _plan(policy: str, *options: str, model: str = "mixtral-8x7b", host: str = "2x24gb"):  # type: ignore[no-untyped-def]
    return invoke("plan", policy, "--model", model, "--host", host, *options)


def test_a_change_is_planned_and_compared_with_what_is(policy: str) -> None:
    done = _plan(policy, "--what-if", "cuda.count=5", "--format", "json")
    told = json.loads(done.stdout)["what_if"]
    assert told["changes"] == ["cuda.count=5"]
    assert told["as_it_is"]["kept_elsewhere"] > 0 == told["then"]["kept_elsewhere"]
    assert told["then"]["predicted_ns_per_token"] < told["as_it_is"]["predicted_ns_per_token"]
    assert set(told["then"]["devices"]) == {f"cuda:{at}" for at in range(5)}


def test_what_is_refused_as_it_is_says_so(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('prefer = "cuda"\n')
    done = _plan(str(file), "--what-if", "cuda.memory=80 GiB", "--what-if", "context=1024")
    assert done.status == 0
    assert "as it is refused (DP301)" in done.stdout


@pytest.mark.parametrize(
    "change", ["cuda", "cuda.count=x", "colour=3", "xpu.count=1", "cuda.free=99 TiB", "context=0", "=3"]
)
def test_a_change_that_changes_nothing_is_an_error(policy: str, change: str) -> None:
    done = _plan(policy, "--what-if", change)
    assert done.status == 2
    assert "error" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_is_certified_and_stays_the_same(policy: str) -> None:
    plain = json.loads(_plan(policy, "--format", "json").stdout)
    certified = json.loads(_plan(policy, "--certify", "--format", "json").stdout)
    made = certified.pop("certificate")
    assert certified == plain
    assert made["bound_ns"] <= made["plan_ns"] == plain["prediction"]["predicted_ns_per_token"]
    assert "gap" in _plan(policy, "--certify").stdout


def test_what_was_not_chosen_by_time_cannot_be_certified() -> None:
    done = _plan("prefer-accelerator", "--certify", model="gpt2")
    assert done.status == 2
    assert "can be certified" in done.stderr
