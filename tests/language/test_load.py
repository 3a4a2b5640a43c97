import os
import pickle

import pytest

from devpolicy._core.language.policy import Policy
from devpolicy._core.shipped import shipped, shipped_files
from devpolicy.errors import PolicyError

SHIPPED = shipped_files("policy")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_is_loaded_by_its_name(name):
    policy = Policy.load(name)
    assert policy.prefer
    assert not policy.warnings


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_names_its_schema_for_editors(name):
    assert SHIPPED[name].read_text(encoding="utf-8").startswith("#:schema ./policy.schema.json\n")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_is_toml_1_0(name):
    tomllib = pytest.importorskip("tomllib")  # the standard library reads TOML 1.0 only
    assert tomllib.loads(SHIPPED[name].read_text(encoding="utf-8"))["prefer"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_readme_lists_every_shipped_policy(name):
    readme = shipped("policy").joinpath("README.md")
    if not readme.is_file():
        pytest.skip("a wheel carries no README")
    assert f"[`{name}`]({name}.toml)" in readme.read_text(encoding="utf-8")


def test_the_head_goes_to_disk_and_nothing_else_does():
    policy = Policy.load("offload-lm-head")
    assert [str(term) for term in policy.prefer] == ["cuda", "mps"]
    (rule,) = policy.rules
    assert (rule.name, [str(term) for term in rule.offload]) == ("offload.lm_head", ["disk"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('prefer = "cuda"\n[memory.disk]\npath = "offload"\n', encoding="utf-8")
    return tmp_path


def test_a_policy_is_loaded_by_text_or_by_path(folder):
    assert Policy.load("mine.toml").prefer == Policy.load(folder / "mine.toml").prefer


def test_the_folder_of_the_disk_is_relative_to_the_policy_file(folder):
    assert Policy.load(folder / "mine.toml").disk_path == str(folder / "offload")
    assert Policy.load("mine.toml").disk_path == "offload"
    elsewhere = str(folder / "elsewhere")
    (folder / "other.toml").write_text(f"prefer = \"cuda\"\n[memory.disk]\npath = '{elsewhere}'\n", encoding="utf-8")
    assert Policy.load(folder / "other.toml").disk_path == elsewhere


def test_messages_name_the_file(folder):
    (folder / "bad.toml").write_text('prefer = "gpu"\n', encoding="utf-8")
    with pytest.raises(PolicyError, match=r"--> bad\.toml:1:10"):
        Policy.load("bad.toml")


@pytest.mark.parametrize(
    ("name", "help_"),
    [
        ("offload-lmhead", "did you mean `offload-lm-head`?"),
        ("offload_lm_head", "did you mean `offload-lm-head`, which ships with devpolicy?"),
        ("cpu-only.toml", "did you mean `cpu-only`, which ships with devpolicy?"),
        ("mime.toml", "did you mean `mine.toml`?"),
        ("nothing like it", "known are `as-much-as-fits`, `cpu-only`"),
    ],
)
def test_an_unknown_name_is_refused_with_the_likely_one(folder, name, help_):
    with pytest.raises(PolicyError) as refused:
        Policy.load(name)
    (finding,) = refused.value.diagnostics
    assert finding.code == "DP202"
    assert f"`{name}`" in finding.message
    assert finding.help.startswith(help_)


@pytest.mark.parametrize("name", ["", ".", "x" * 10_000, "a\0b", "no/such/folder/p.toml"])
def test_odd_names_are_refused(folder, name):
    with pytest.raises(PolicyError) as refused:
        Policy.load(name)
    assert refused.value.code in {"DP109", "DP202"}


def test_a_folder_is_no_policy(folder):
    with pytest.raises(PolicyError) as refused:
        Policy.load(folder)
    assert refused.value.code == "DP109"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(folder):
    (folder / "mine.toml").chmod(0)
    with pytest.raises(PolicyError) as refused:
        Policy.load("mine.toml")
    assert refused.value.code == "DP109"


@pytest.mark.parametrize("name", [None, 3, b"cpu-only"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(PolicyError, match="DP102"):
        Policy.load(name)


def test_a_policy_and_its_refusal_go_to_another_process():
    policy = Policy.load("offload-lm-head")
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(PolicyError) as refused:
        Policy.parse("prefer = 3")
    assert pickle.loads(pickle.dumps(refused.value)).diagnostics == refused.value.diagnostics
