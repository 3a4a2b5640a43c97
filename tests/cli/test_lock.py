"""`--locked` and `--output`: a plan kept, compared, and never half-written."""

import json
import os
import sys

import pytest
from tests.cli.harness import invoke

from devpolicy._core.cli.files import write_whole
from devpolicy.errors import DevPolicyError

LLAMA = ("--model", "llama-3.1-8b", "--host", "2x24gb")


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "plan.lock.json"
    result = invoke("plan", "offload-lm-head", *LLAMA, "--format", "json", "--output", str(path))
    assert result == ("", "", 0)
    return path


def test_the_same_plan_passes_and_is_shown(lock):
    result = invoke("plan", "offload-lm-head", *LLAMA, "--locked", str(lock))
    assert result.status == 0
    assert f"unchanged, as in {lock}" in result.stdout


def test_a_file_of_the_shell_is_a_lock_too(lock):
    assert lock.read_text() == invoke("plan", "offload-lm-head", *LLAMA, "--format", "json").stdout


def test_another_plan_fails_and_what_moved_is_said(lock):
    result = invoke("plan", "split-across-gpus", *LLAMA, "--locked", str(lock))
    assert result.status == 1
    assert result.stdout == ""
    assert "error[DP505]" in result.stderr
    assert "note: `model.layers.{16..31}`: cuda:0 -> cuda:1\n" in result.stderr
    assert "note: `lm_head`: disk (executes on cuda:0) -> cuda:1\n" in result.stderr


def test_what_moved_is_told_to_programs_module_by_module(lock):
    result = invoke("plan", "split-across-gpus", *LLAMA, "--locked", str(lock), "--format", "json")
    value = json.loads(result.stdout)
    assert value["errors"][0]["code"] == "DP505"
    assert len(value["moved"]) == 16 + 3
    assert value["moved"][-1] == {
        "component": None,
        "module": "lm_head",
        "from": {"device": "disk", "runs_on": "cuda:0"},
        "to": {"device": "cuda:1", "runs_on": "cuda:1"},
    }


def test_another_division_of_the_same_places_is_no_move(tmp_path):
    # A rule cuts the block, so its parts are units; they are where the block was, but for one.
    whole, cut, lock = tmp_path / "whole.toml", tmp_path / "cut.toml", tmp_path / "lock"
    whole.write_text('prefer = "cuda"\n')
    cut.write_text('prefer = "cuda"\n[offload]\n"model.layers.3.mlp" = "cpu"\n')
    invoke("plan", str(whole), *LLAMA, "--format", "json", "--output", str(lock))
    result = invoke("plan", str(cut), *LLAMA, "--locked", str(lock), "--format", "json")
    moved = {entry["module"]: entry["to"] for entry in json.loads(result.stdout)["moved"]}
    assert moved["model.layers.3.mlp"] == {"device": "cpu", "runs_on": "cuda:0"}
    assert "model.layers.3.self_attn" not in moved
    assert "model.layers.2" not in moved


def test_a_digest_alone_is_a_lock(tmp_path, lock):
    digest = tmp_path / "digest"
    digest.write_text(json.loads(lock.read_text())["digest"] + "\n")
    assert invoke("plan", "offload-lm-head", *LLAMA, "--locked", str(digest)).status == 0
    changed = invoke("plan", "split-across-gpus", *LLAMA, "--locked", str(digest))
    assert changed.status == 1
    assert "holds only a digest" in changed.stderr


def test_a_change_without_a_move_is_named(lock):
    result = invoke("plan", "offload-lm-head", *LLAMA, "--target", "haystack", "--locked", str(lock))
    assert result.status == 1
    assert "no module moved: target `hf` -> `haystack`" in result.stderr


def test_components_are_locked_together(tmp_path):
    lock = tmp_path / "lock"
    models = ("--model", "a=gpt2", "--model", "b=bert-base", "--host", "2x24gb")
    assert invoke("plan", "prefer-accelerator", *models, "--format", "json", "--output", str(lock)).status == 0
    assert invoke("plan", "prefer-accelerator", *models, "--locked", str(lock)).status == 0
    other = invoke("plan", "cpu-only", *models, "--locked", str(lock))
    assert other.status == 1
    assert "the plan of `a`" in other.stderr
    assert "the plan of `b`" in other.stderr
    alone = invoke("plan", "prefer-accelerator", "--model", "gpt2", "--host", "2x24gb", "--locked", str(lock))
    assert alone.status == 1
    assert "holds `a`, `b`, and planned is one plan" in alone.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a plan nor a digest"),
        (b"sha256:12", "neither a plan nor a digest"),
        (b"[1, 2]", "neither a plan nor a digest"),
        (b'"sha256"', "neither a plan nor a digest"),
        (b"[" * 100_000, "neither a plan nor a digest"),
        (b"\xff\xfe", "neither a plan nor a digest"),
        (b'{"schema": 2}', "schema 2"),
        (b'{"schema": 1}', "no serialised plan"),
        (b"{}", "it has no `schema`"),
        (b'{"components": {"a": 1}}', "no serialised plan"),
        (b'{"schema": 1, "errors": []}', "the errors of a plan that failed"),
    ],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path, content, said):
    path = tmp_path / "lock"
    path.write_bytes(content)
    result = invoke("plan", "offload-lm-head", *LLAMA, "--locked", str(path))
    assert result.status == 2
    assert said in result.stderr


def test_a_lock_that_is_not_there_says_how_to_write_it(tmp_path):
    result = invoke("plan", "offload-lm-head", *LLAMA, "--locked", str(tmp_path / "none"))
    assert (result.status, "--output FILE" in result.stderr) == (2, True)


def test_a_plan_that_fails_leaves_the_file_as_it_was(lock):
    before = lock.read_bytes()
    result = invoke(
        "plan", "offload-lm-head", "--model", "gpt2", "--host", "cpu-only", "--format", "json", "--output", str(lock)
    )
    assert result.status == 3
    assert lock.read_bytes() == before


def test_the_human_form_can_be_written_too(tmp_path):
    path = tmp_path / "plan.txt"
    assert invoke("plan", "cpu-only", "--model", "gpt2", "--host", "cpu-only", "--output", str(path)).status == 0
    assert "transformer.h.{0..11}" in path.read_text(encoding="utf-8")


def test_writing_replaces_a_file_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    mode = path.stat().st_mode
    write_whole(str(path), "new\n")
    assert path.read_text() == "new\n"
    assert path.stat().st_mode == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
def test_a_link_is_followed_and_a_pipe_is_not_replaced(tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(str(link), "new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # for both, so that neither end waits for the other
    write_whole(str(pipe), "new")
    assert pipe.is_fifo()
    assert os.read(reader, 10) == b"new"
    os.close(reader)


@pytest.mark.parametrize("path", ["no/such/folder/file", "."])
def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DevPolicyError, match="cannot write"):
        write_whole(path, "text")
    assert list(tmp_path.iterdir()) == []
