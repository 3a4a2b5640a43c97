"""What Transformers built of a model is kept for the next process: what makes it be built anew, and what is trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy import ModelTree
from devpolicy._core import disk_cache
from devpolicy._core.disk_cache import VARIABLE, DiskCache, model_cache
from devpolicy._core.model import built_before

NEMOTRON = {
    "model_type": "nemotron", "architectures": ["NemotronForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
}  # fmt: skip
needs_transformers = pytest.mark.skipif(not built_before.version_of("transformers"), reason="Transformers builds it")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that has an entry for each model that Transformers builds."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    from devpolicy._core.model import config, structure

    made: list[str] = []
    for module in (config, structure):
        before = module.built_tree

        def counting(table: Any, *rest: Any, before: Any = before) -> Any:
            made.append(table["model_type"])
            return before(table, *rest)

        monkeypatch.setattr(module, "built_tree", counting)
    return made


def stored(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "nemotron"
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**NEMOTRON)).save_pretrained(folder)
    return folder


def test_a_model_is_built_once(kept: Path, builds: list[str], checkpoint: Path) -> None:
    for source in (checkpoint, checkpoint / "config.json"):
        first = ModelTree.load(source)
        before = len(builds)
        again = ModelTree.load(source)
        assert (again, again.config, again.source) == (first, first.config, first.source)
        assert len(builds) == before
    assert builds == ["nemotron", "nemotron"]
    assert len(stored(kept)) == 2


@pytest.mark.parametrize(
    "changed",
    [{"num_hidden_layers": 3}, {"dtype": "float16"}, {"architectures": ["NemotronModel"]}, {"vocab_size": 65}],
    ids=str,
)
def test_another_content_is_built_anew(kept: Path, builds: list[str], changed: dict[str, Any]) -> None:
    first, other = (ModelTree.from_config(NEMOTRON | more) for more in ({}, changed))
    assert first != other
    assert len(builds) == 2


def test_another_version_is_built_anew(kept: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ModelTree.from_config(NEMOTRON)
    monkeypatch.setattr(built_before, "_reader", lambda: "another")
    ModelTree.from_config(NEMOTRON)
    assert len(builds) == 2


def test_off_keeps_nothing(builds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for word in ("off", "models"):  # a relative path would be another folder wherever a process runs
        monkeypatch.setenv(VARIABLE, word)
        ModelTree.from_config(NEMOTRON)
    assert list(tmp_path.iterdir()) == []
    assert len(builds) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of Linux")
def test_the_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_cache().folder == tmp_path / ".cache" / "devpolicy" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert model_cache().folder == tmp_path / "cache" / "devpolicy" / "models"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_others_may_write_is_not_read(kept: Path, builds: list[str], tmp_path: Path, what: str) -> None:
    ModelTree.from_config(NEMOTRON)
    (file,) = stored(kept)
    if what == "link":
        elsewhere = file.rename(tmp_path / "elsewhere")
        file.symlink_to(elsewhere)
    else:
        (kept if what == "folder" else file).chmod(0o777)
    ModelTree.from_config(NEMOTRON)
    assert len(builds) == 2
    assert bool(model_cache().problem()) == (what == "folder")


KEYS = ("model", "fit", "sources", "x")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["model", "fit", "sources", "x"]), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_a_file_says_is_no_answer_or_an_error_of_nobody(value: Any) -> None:
    assert built_before._read(value, {}) is None


BROKEN = (
    b"",
    b"{",
    b"[" * 100_000,
    b"\xff\xfe",
    b"null",
    b'{"model": "", "fit": [[], [], []], "sources": []}',
    b"1e999",
)


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:12]))
def test_a_broken_file_is_written_anew(kept: Path, builds: list[str], content: bytes) -> None:
    first = ModelTree.from_config(NEMOTRON)
    (file,) = stored(kept)
    whole = file.read_bytes()
    file.write_bytes(content)
    assert ModelTree.from_config(NEMOTRON) == first
    assert file.read_bytes() == whole
    assert len(builds) == 2


@needs_transformers
def test_a_pipe_in_its_place_is_not_waited_for(kept: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders here")
    ModelTree.from_config(NEMOTRON)
    (file,) = stored(kept)
    file.unlink()
    os.mkfifo(file)
    assert ModelTree.from_config(NEMOTRON).name


def test_few_and_small_files_are_kept_those_that_were_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "MOST_FILES", 4)
    monkeypatch.setattr(disk_cache, "LARGEST_KEPT", 400)
    cache = DiskCache(tmp_path / "kept")
    cache.write("0" * 64, "first")
    (tmp_path / "kept" / "of the user.json").write_text("x" * 500)
    for number in range(1, 10):
        for file in tmp_path.glob("kept/*.json"):
            os.utime(file, (number, number))
        assert cache.read("0" * 64) == "first"  # used again and again
        cache.write(f"{number:064}", f"{number}")
    assert cache.read("0" * 64) == "first"
    assert len(cache.sizes()) == 4
    cache.write("f" * 64, "x" * 300)
    assert sum(cache.sizes()) <= 400
    cache.write("e" * 64, "x" * disk_cache.LARGEST_ENTRY)
    assert cache.read("e" * 64) is None
    assert (tmp_path / "kept" / "of the user.json").exists()


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "models")
    cache.write("0" * 64, "kept")
    assert cache.read("0" * 64) is None


@needs_transformers
def test_the_next_process_imports_neither_torch_nor_transformers(kept: Path, checkpoint: Path) -> None:
    read = (
        "import json, sys; from devpolicy import ModelTree; tree = ModelTree.load(sys.argv[1]);"
        "print(json.dumps([len(tree.modules), 'torch' in sys.modules, 'transformers' in sys.modules]))"
    )
    found = [
        json.loads(subprocess.run([sys.executable, "-c", read, checkpoint], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert found[0][0] == found[1][0]
    assert found[1][1:] == [False, False]
