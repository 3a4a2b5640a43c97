"""One rule for the names of policies, models, hosts and fleets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devpolicy import Host, ModelTree, Policy, plan
from devpolicy._core.names import Kind, beside, shipped_names, unknown
from devpolicy.errors import DevPolicyError, HostError, ModelError, PolicyError
from devpolicy.fleet import Fleet

LOAD: dict[Kind, Callable[[str], Any]] = {
    "policy": Policy.load,
    "model": ModelTree.load,
    "host": Host.load,
    "fleet": Fleet.load,
}
ONLY: dict[Kind, str] = {
    kind: next(
        name for name in shipped_names(kind) if not any(name in shipped_names(other) for other in LOAD if other != kind)
    )
    for kind in LOAD
}


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("other", LOAD)
def test_another_kinds_name_says_so(kind: Kind, other: Kind) -> None:
    if kind == other:
        LOAD[kind](ONLY[kind])
        return
    with pytest.raises(DevPolicyError, match=f"`{ONLY[other]}` is a {other}, and a {kind} is expected") as caught:
        LOAD[kind](ONLY[other])
    assert caught.value.code == "DP102"


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("other", LOAD)
def test_another_kinds_file_is_one_finding(kind: Kind, other: Kind, tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    for name, shipped in shipped_names(other).items():
        file.write_bytes(shipped.read_bytes())
        if kind == other:
            if "/" not in name:  # a policy may name others beside it
                LOAD[kind](str(file))
            continue
        with pytest.raises(DevPolicyError) as caught:
            LOAD[kind](str(file))
        (finding,) = caught.value.diagnostics
        assert finding.message == f"`{file}` is a {other}, and a {kind} is expected", name
        assert finding.place is not None


@pytest.mark.parametrize("kind", LOAD)
def test_a_misspelt_name_has_its_likely_one(kind: Kind) -> None:
    with pytest.raises(DevPolicyError, match=f"did you mean `{ONLY[kind]}`") as caught:
        LOAD[kind](ONLY[kind] + "x")
    assert caught.value.code == "DP202"


@pytest.mark.parametrize("kind", LOAD)
def test_case_and_nothing_are_no_names(kind: Kind) -> None:
    with pytest.raises(DevPolicyError, match=f"did you mean `{ONLY[kind]}`") as caught:
        LOAD[kind](ONLY[kind].upper())
    assert caught.value.code == "DP202"
    with pytest.raises(DevPolicyError) as caught:
        LOAD[kind]("")
    assert caught.value.code == "DP202"


def test_the_verbs_say_so_too() -> None:
    with pytest.raises(HostError, match="a host is expected"):
        plan("cpu-only", "gpt2", ONLY["model"])
    with pytest.raises(ModelError, match="a model is expected"):
        plan("cpu-only", ONLY["host"])


def test_a_text_that_builds_on_a_model_says_so() -> None:
    with pytest.raises(PolicyError, match="`gpt2` is a model, and a policy is expected"):
        Policy.parse('extends = "gpt2"\nprefer = "cpu"\n')


def test_what_ships_comes_before_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "mine").mkdir()
    assert beside("model", "gpt2", tmp_path, ModelError) == "gpt2"
    assert beside("model", "mine", tmp_path, ModelError) == str(tmp_path / "mine")
    assert beside("model", "mine:sub", tmp_path, ModelError) == str(tmp_path / "mine:sub")
    assert beside("model", "org/name", tmp_path, ModelError) == "org/name"
    assert beside("host", "gone.toml", tmp_path, HostError) == str(tmp_path / "gone.toml")


def test_own_names_are_likely_too() -> None:
    assert "did you mean `rack-7`?" in unknown("host", "rak-7", {"rack-7"}).help


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("llama3", "llama-3.1-405b"),
        ("llama3.1:8b", "llama-3.1-8b"),
        ("qwen3:8b", "qwen3-8b"),
        ("mixtral:8x7b", "mixtral"),
    ],
)
def test_the_beginning_of_a_name_is_enough_for_its_likely_one(name: str, likely: str) -> None:
    with pytest.raises(ModelError, match=rf"there is no model, file or folder `{name}`\n.*did you mean `{likely}"):
        ModelTree.load(name)


def test_a_folder_of_a_policy_is_led_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('prefer = "cpu"\n', encoding="utf-8")
    with pytest.raises(PolicyError, match=r"is a directory\n.*did you mean `.*policy\.toml`\?"):
        Policy.load(tmp_path)


def test_a_path_is_no_name_that_ships() -> None:
    with pytest.raises(PolicyError, match=r"there is no policy file `cpu-only`\n.*as text, not as a path"):
        Policy.load(Path("cpu-only"))
