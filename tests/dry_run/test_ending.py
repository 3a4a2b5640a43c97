"""However a dry run ends, its process and its files end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
