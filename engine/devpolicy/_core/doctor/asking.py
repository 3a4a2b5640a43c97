"""Asking every library, each in a child process with a timeout.

Owns which are installed, the processes, and that no crash, hang or noise of theirs is more than a fault.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.doctor.told import LIBRARIES, NEED_TORCH, Told, read
from devpolicy._core.host.probe.answer import clean, silent
from devpolicy._core.host.probe.ask import MARK
from devpolicy._core.host.probe.child import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.host import Host

AT_ONCE = 4
"""Children that run beside each other: each that imports torch takes some 300 MiB."""

# Where devpolicy is goes last: beside it may stand anything.
_START = "import sys; sys.path.append(sys.argv.pop()); from devpolicy._core.doctor.questions import main; main()"


def ask_all(libraries: Sequence[str], simulated: Host | None, timeout: float) -> tuple[Told, ...]:
    """Return what libraries tell, in their order. `timeout` is in seconds, for each."""
    ask = partial(_ask, host="" if simulated is None else simulated.to_toml(), timeout=timeout)
    versions = {library: _version(distribution) for library, distribution in LIBRARIES.items()}
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(lambda library: _told(library, versions, ask), libraries))


def _told(library: str, versions: dict[str, str | None], ask: partial[Told]) -> Told:
    version = versions[library]
    if version is None:
        return Told(library)
    if library in NEED_TORCH and versions["torch"] is None:
        return Told(library, version, why="it chooses devices with torch, which is not installed")
    return ask(library, version)


def _version(distribution: str) -> str | None:
    try:
        # A damaged installation has no version.
        return clean(metadata.version(distribution) or "") or "unknown"
    except metadata.PackageNotFoundError:
        return None


def _ask(library: str, version: str, host: str, timeout: float) -> Told:
    if not sys.executable or getattr(sys, "frozen", False):
        return Told(library, version, fault="this program has no Python interpreter to ask with")
    root = str(Path(__file__).parents[3])
    # -P: a folder with a torch.py of its own is not where the child looks first.
    command = [sys.executable, "-P", "-c", _START, library, host, root]
    try:
        output, errors, status = run(command, timeout)
    except subprocess.TimeoutExpired:
        return Told(library, version, fault=silent(timeout))
    except (OSError, ValueError) as broken:
        return Told(library, version, fault=f"cannot start a process to ask it: {clean(broken)}")
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        return read(library, version, json.loads(lines[-1].removeprefix(MARK)))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return Told(library, version, fault=_ended(errors, status))


def _ended(errors: str, status: int) -> str:
    """Say how a child ended that told nothing."""
    if status < 0:
        try:
            return f"it crashed with {signal.Signals(-status).name}"
        except ValueError:
            return f"it crashed with signal {-status}"
    last = clean((errors.strip().splitlines() or [""])[-1])
    return last or f"its process ended with status {status}"
