"""devpolicy on a system that is not POSIX: every module is imported, and commands run, without what Windows lacks.

Windows itself is tried by `.github/workflows/platforms.yml`; this finds here what that would fail on. The libraries of
others are imported first, since theirs are for Linux. Python's own starts of processes need POSIX here, so no command
that starts some is tried.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

WINDOWS = """
import asyncio, concurrent.futures.process, ctypes, multiprocessing.pool, os, pkgutil, platform, signal, sys, tempfile
import click.testing, psutil, rich.console, rich.progress, uuid, webbrowser
MODULES = "fcntl grp pty pwd resource termios tty".split()
CALLS = "fork forkpty geteuid getuid getgid getpgid kill killpg mkfifo sched_getaffinity setsid uname wait3".split()
SIGNALS = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGXCPU".split()
for name in MODULES:
    sys.modules[name] = None
for name in [*CALLS, "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG"]:
    if hasattr(os, name):
        delattr(os, name)
for name in [*SIGNALS, "alarm", "setitimer", "pthread_sigmask"]:
    if hasattr(signal, name):
        delattr(signal, name)
sys.platform = "win32"
platform.system = lambda: "Windows"
"""
IMPORTED = """
import devpolicy
from devpolicy.errors import MissingLibraryError
HEAVY = {"torch", "transformers", "accelerate", "haystack", "spacy", "pytest", "hypothesis", "ray"}
names = [one.name for one in pkgutil.walk_packages(devpolicy.__path__, "devpolicy.") if "__main__" not in one.name]
for name in names:
    try:
        __import__(name)
    except ImportError as missing:
        if not isinstance(missing, MissingLibraryError) and (missing.name or "").split(".")[0] not in HEAVY:
            raise
print(len(names), "modules")
"""
RUN = """
from devpolicy._core.cli import main
main(sys.argv[1:])
"""


def without_posix(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WINDOWS + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_every_module_is_imported():
    # What needs torch or pytest imports it, and they are for this system.
    heavy = ["torch", "transformers", "accelerate", "haystack", "spacy", "ray", "pytest", "hypothesis"]
    done = without_posix(f"sys.modules.update(dict.fromkeys({heavy}))\n{IMPORTED}")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "offload-lm-head", "--model", "llama-3.1-70b", "--host", "4x80gb"],
        ["plan", "cpu-only", "--model", "gpt2"],
        ["test", "cpu-only"],
        ["host", "capture"],
        ["init", "first", "--model", "gpt2", "--host", "1x24gb", "--ci", "github"],
        ["report", "prefer-accelerator", "--models", "gpt2", "--hosts", "1x24gb", "-o", "report.html"],
        ["run", "prefer-accelerator", "--model", "gpt2", "--host", "1x24gb", "--print", "--", "python", "x.py"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_command_runs(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = without_posix(RUN, *arguments)
    assert done.returncode == 0, done.stderr
