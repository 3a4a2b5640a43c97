"""Building a model is stopped where its code does not end, or takes memory without end."""

import json
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from devpolicy._core.model import watchdog
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.model.watchdog import watched
from devpolicy.errors import ModelError

TINY = {
    "model_type": "bert", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "vocab_size": 8, "max_position_embeddings": 8,
}  # fmt: skip


@pytest.fixture
def hurried(monkeypatch):
    hurry(monkeypatch)


def hurry(monkeypatch):
    monkeypatch.setattr(watchdog, "LONGEST_BUILD", 0.2)
    monkeypatch.setattr(watchdog, "_LOOK", 0.02)
    monkeypatch.setattr(watchdog, "_AGAIN", 0.05)


def compute(seconds=60.0):
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:  # ends: by the clock, where nobody stops it
        pass


def test_a_block_that_does_not_end_is_stopped(hurried):
    with pytest.raises(ModelError, match=r"takes longer than 0\.2 seconds of computing, the limit"), watched():
        compute()


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_a_block_that_catches_what_stops_it_is_stopped(hurried, caught):
    def stubborn():
        for _ in range(3):
            try:
                compute()
            except caught:
                continue

    with pytest.raises(ModelError, match="the limit"), watched():
        stubborn()


def test_an_error_of_a_block_that_was_stopped_is_the_limit(hurried):
    with pytest.raises(ModelError, match="the limit"), watched():
        try:
            compute()
        finally:
            raise ValueError("lost its place")


def test_a_block_that_takes_memory_without_end_is_stopped(hurried, monkeypatch):
    monkeypatch.setattr(watchdog, "LONGEST_BUILD", 60)
    monkeypatch.setattr(watchdog, "MOST_BUILD_MEMORY", 64 << 20)
    taken = []
    with pytest.raises(ModelError, match=r"more than 64\.0 MiB of memory, the limit"), watched():
        while sum(map(len, taken)) < 1 << 30:
            taken.append(bytes(1 << 20).replace(b"\0", b"x"))
            time.sleep(0.001)


def test_waiting_is_not_computing(hurried):
    with watched():
        time.sleep(0.5)


def test_a_block_within_another_is_part_of_it(hurried):
    with pytest.raises(ModelError, match="the limit"), watched():
        for _ in range(100):
            with watched():
                compute(0.05)


def test_nothing_is_stopped_behind_a_block(hurried):
    for _ in range(12):
        begun = time.thread_time()
        with suppress(ModelError), watched():
            compute(0.19)  # about to be stopped; a machine that is busy may just have done it
        compute(0.02)
        assert time.thread_time() - begun < 0.5
        if threading.active_count() > 1:
            assert not [one for one in threading.enumerate() if one.name == "devpolicy-watchdog" and one.is_alive()]


def test_an_error_of_a_block_is_its_own():
    with pytest.raises(KeyError), watched():
        raise KeyError("its own")


def test_a_configuration_that_builds_without_end_is_refused(monkeypatch):
    transformers = pytest.importorskip("transformers")
    ModelTree.from_config(TINY)  # what is imported for it takes longer than the limit of this test
    hurry(monkeypatch)
    monkeypatch.setattr(transformers.BertModel, "__init__", lambda *_, **__: compute())
    with pytest.raises(ModelError, match="reading this model takes longer"):
        ModelTree.from_config(TINY)


def test_a_checkpoint_is_stopped_once_for_all_its_classes(hurried, monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"architectures": ["BertModel"]}))
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    from devpolicy._core.model import structure

    monkeypatch.setattr(structure, "built_tree", lambda *_, **__: compute())
    begun = time.thread_time()
    with pytest.raises(ModelError, match="reading this model takes longer"):
        ModelTree.from_checkpoint(tmp_path)
    assert time.thread_time() - begun < 30


@pytest.mark.parametrize("stopped", [False, True])
def test_a_profiler_runs_behind_a_block(stopped):
    code = f"""
import sys
from devpolicy._core.model import watchdog
from devpolicy.errors import ModelError

watchdog.LONGEST_BUILD, watchdog._LOOK, watchdog._AGAIN = 0.2, 0.02, 0.05
try:
    with watchdog.watched():
        while {stopped}:
            pass
except ModelError:
    pass


def called():
    return 1


sys.setprofile(lambda *_: None)
called()
sys.settrace(lambda *_: None)
called()
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
