"""However a dry run ends, its process and its files end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from devpolicy import DevPolicyError, plan
from devpolicy._core.dry_run import child
from devpolicy._core.dry_run.verb import DryRunError, dry_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

CHILD = """
import os, sys, time, types
from devpolicy._core.dry_run import child
from devpolicy._core.dry_run.checkpoint import scratch

def run_configured(request, progress):
    with scratch() as folder:
        (folder / "model.safetensors").touch()
        print(os.getpid(), folder, file=sys.stderr, flush=True)
        time.sleep(300)

sys.modules["devpolicy._core.dry_run.configured"] = types.SimpleNamespace(run_configured=run_configured)
child.Request.from_json = staticmethod(lambda line: line)
child.main()
"""
STUBBORN = CHILD.replace("time.sleep(300)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)").replace(
    "import os, sys,", "import os, signal, sys,"
)
"""A child that its end does not reach, as one in a long call of a library."""
GREEDY = CHILD.replace("time.sleep(300)", "kept = b'x' * (512 << 20); time.sleep(300)")
PARENT = """
import subprocess, sys
asked = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
asked.stdin.write(b"x\\n")
asked.stdin.flush()
asked.wait()
"""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.mark.parametrize(("who", "ending"), [("parent", "SIGKILL"), ("parent", "SIGTERM"), ("child", "SIGTERM")])
def test_neither_process_nor_files_of_a_dry_run_outlive_it(who: str, ending: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    number, _, folder = parent.stderr.readline().strip().partition(" ")
    pid = int(number)
    assert Path(folder).is_dir()
    try:
        os.kill(parent.pid if who == "parent" else pid, getattr(signal, ending))
        end = time.monotonic() + 30
        while not (_gone(pid) and not Path(folder).exists()) and time.monotonic() < end:
            time.sleep(0.05)
        assert (_gone(pid), Path(folder).exists()) == (True, False)
    finally:
        parent.kill()
        if not _gone(pid):
            os.kill(pid, signal.SIGKILL)
    assert "Traceback" not in parent.communicate()[1]


TIME = r"6 seconds, .*\n.*`--timeout 12`"
MEMORY = r"256\.0 MiB of memory, .*\n.*`--new-tokens`"


@pytest.mark.parametrize(
    ("code", "limit"), [(CHILD, TIME), (STUBBORN, TIME), (GREEDY, MEMORY)], ids=["asleep", "stubborn", "greedy"]
)
def test_a_dry_run_ends_at_its_limit(
    code: str, limit: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def started(_: list[str], **given: Any) -> subprocess.Popen[str]:
        return popen([sys.executable, "-c", code], **given)

    child.stop()  # one that an earlier test left would answer instead
    popen = subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", started)
    monkeypatch.setattr(child, "require_built", lambda _: None)
    monkeypatch.setattr(child, "_TO_END", 0.5)
    asked = types.SimpleNamespace(name="a model", to_json=lambda: "x")
    monkeypatch.setattr(child, "MOST_MEMORY", 256 << 20)
    with pytest.raises(DevPolicyError, match=f"`a model` was stopped: it took more than {limit}"):
        child.ask(asked, lambda *_: None, 60 if limit is MEMORY else 6)  # type: ignore[arg-type]
    number, _, folder = capfd.readouterr().err.strip().partition(" ")
    assert (_gone(int(number)), Path(folder).exists()) == (True, False)


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan"), float("inf"), 86_401])
def test_a_limit_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(DryRunError, match="`timeout` is a number of seconds"):
        dry_run(plan("cpu-only", "gpt2", "1x24gb"), "gpt2", "1x24gb", timeout=timeout)
