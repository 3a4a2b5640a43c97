"""Where two policies differ, and on which small host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.harness import invoke
from tests.worlds import World, as_policy, worlds

from devpolicy import Device, Host, ModelTree, Policy
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.placement.plan import Placement, Placements
from devpolicy._core.review.diff import compare, diff
from devpolicy._core.review.hosts import Variant

LLAMA = ModelTree.load("llama-3.1-8b")
HEAD = 'prefer = ["cuda", "cpu"]\n[offload]\nlm_head = "disk"\n'


def on(*names: str) -> list[Variant]:
    return [Variant(name, Host.load(name)) for name in names]


def test_a_policy_does_not_differ_from_itself_anywhere() -> None:
    policy = Policy.parse(HEAD)
    found = diff(policy, policy, [LLAMA, None], on(*catalogue()), jobs=1)
    assert (found.compared, found.found, found.smallest) == (2 * len(catalogue()), (), None)


def test_what_moved_is_told_for_each_host() -> None:
    balanced = Policy.parse('split = "balanced"\n' + HEAD)
    found = diff(Policy.parse(HEAD), balanced, [LLAMA], on("1x24gb", "8x80gb", "4x80gb"), jobs=1)
    assert [one.host for one in found.found] == ["8x80gb", "4x80gb"]
    assert found.found[0].moved["model.layers.31"] == (("cuda:0", "cuda:0"), ("cuda:7", "cuda:7"))
    assert found.smallest is not None
    assert len(found.smallest.accelerators) == 2
    assert found.shown is not None
    assert found.shown.moved["model.layers.31"][1] == ("cuda:1", "cuda:1")


def test_a_refusal_by_one_differs_and_by_both_does_not() -> None:
    loud = Policy.parse(HEAD.replace(', "cpu"', ""))
    (one,) = diff(Policy.parse(HEAD), loud, [LLAMA], on("arc-a770"), jobs=1).found
    assert one.refused[0] == ""
    assert one.refused[1].startswith("DP301: ")
    both = Policy.parse('prefer = "cuda:7"\n')
    assert not diff(loud, both, [LLAMA], on("arc-a770"), jobs=1).found
    parted = Policy.parse('prefer = ["cuda", "mps"]\n[offload]\nlm_head = "disk"\n[require]\nos = "macos"\n')
    assert diff(loud, parted, [LLAMA], on("arc-a770"), jobs=1).found


def test_what_is_loaded_otherwise_differs() -> None:
    half = Policy.parse(HEAD + '[workload]\ndtype = "float16"\n')
    (one,) = diff(Policy.parse(HEAD), half, [LLAMA], on("2x24gb"), jobs=1).found
    assert (one.moved, one.other) == ({}, "dtype `None` -> `float16`")


def test_without_a_model_the_device_is_compared() -> None:
    (one,) = diff(Policy.parse('prefer = "cuda"'), Policy.parse('prefer = "cpu"'), [None], on("2x24gb"), jobs=1).found
    assert one.other == "cuda:0 -> cpu"


def test_components_are_compared_by_their_names() -> None:
    text = 'prefer = ["cuda", "cpu"]\n[component.embedder]\nneeds = "4 GiB"\n[component.ranker]\nneeds = "1 GiB"\n'
    changed = Policy.parse(text.replace('"1 GiB"', '"1 GiB"\nprefer = "cpu"'))
    (one,) = diff(Policy.parse(text), changed, [None], on("2x24gb"), jobs=1).found
    assert one.moved == {"ranker: ": (("cuda:0", "cuda:0"), ("cpu", "cpu"))}


@given(st.one_of(worlds(), worlds(hostile=True)))
def test_no_policy_differs_from_itself_on_any_world(world: World) -> None:
    assert not compare((as_policy(world.policy), as_policy(world.policy)), world.tree, world.host, "x")


# The command.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    test = '\n[[test]]\nname = "t"\nhost = "lab"\nmodel = "llama-3.1-8b"\nalways = "within_budget"\n'
    lab = '\n[host.lab]\nmemory = "64 GiB"\ndisk = "1 TiB"\n'
    (tmp_path / "a.toml").write_text(HEAD + lab + test)
    (tmp_path / "b.toml").write_text(HEAD.replace('"disk"', '"cpu"'))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_hosts_and_models_are_those_of_the_policies_unless_given() -> None:
    value = json.loads(invoke("diff", "a.toml", "b.toml", "--format", "json").stdout)
    ours = [name for name in catalogue() if not name.startswith("faulty/")]
    assert value["compared"] == len(ours) + 1
    assert {one["model"] for one in value["differences"]} == {"llama-3.1-8b"}
    assert value["smallest"]["moved"] == {
        "lm_head": {"a": {"device": "disk", "runs_on": "cpu"}, "b": {"device": "cpu", "runs_on": "cpu"}}
    }
    assert Host.parse(value["smallest"]["host"]).accelerators == ()


@pytest.mark.usefixtures("folder")
def test_the_exit_status_is_that_of_diff() -> None:
    assert invoke("diff", "a.toml", "a.toml", "--hosts", "2x24gb").status == 0
    shown = invoke("diff", "a.toml", "b.toml", "--hosts", "2x24gb", "--models", "llama-3.1-*")
    assert shown.status == 1
    assert "lm_head: disk (executes on cuda:0) -> cpu (executes on cuda:0)" in shown.stdout
    assert invoke("diff", "a.toml", "b.toml", "--hosts", "2x24g").status == 2
    assert "known are `lab`" in invoke("diff", "a.toml", "b.toml", "--hosts", "lob").stderr
    assert "give `--model`" in invoke("diff", "b.toml", "b.toml").stderr


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=3).map(".".join), min_size=1, unique=True))
def test_units_below_a_module_are_those_its_path_names(paths: list[str]) -> None:
    one = Placement(Device.cpu(), Device.cpu(), "prefer", "", 1)
    placements = Placements({path: replace(one, bytes=number) for number, path in enumerate(paths)})
    for asked in {*paths, *(f"{path}.a".lstrip(".") for path in paths), "", "d"}:
        inside = {path for path in paths if not asked or path == asked or path.startswith(f"{asked}.")}
        found = placements.below(asked)
        assert inside == {*found} if inside else [*found] in ([], [asked])
