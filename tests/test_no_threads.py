"""The core without threads, psutil and rich, as in a browser's Python: what is missing is said, and is no bug."""

from __future__ import annotations

import subprocess
import sys

import pytest

BARE = """
import sys, threading
for name in ("psutil", "rich", "pygments"):
    sys.modules[name] = None
def refuse(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
from devpolicy._core.cli import main
main(sys.argv[1:])
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "offload-lm-head", "--model", "llama-3.1-70b", "--host", "4x80gb", "--color", "always"],
        ["fit", "prefer-accelerator", "--model", "gpt2", "--host", "1x24gb"],
        ["test", "cpu-only"],
        ["plan", "cpu-only", "--model", "gpt2"],
        ["host", "capture"],
        ["verify", "cpu-only", "-p", "within_budget", "--jobs", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_runs(arguments):
    done = bare(*arguments)
    assert (done.returncode, "\x1b" in done.stdout) == (0, False), done.stderr


def test_doctor_says_what_is_missing():
    done = bare("doctor", "psutil")
    assert done.returncode in (0, 1), done.stderr
    assert "bug" not in done.stdout + done.stderr


def test_a_library_cannot_be_asked_without_threads():
    from importlib.util import find_spec

    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    done = bare("doctor", "torch", "--format", "json")
    assert done.returncode == 1, done.stderr
    assert "can't start new thread" in done.stdout
