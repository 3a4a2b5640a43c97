"""Child processes on the host of the process that starts them, where that is asked for.

Owns how a child learns of the host, by two environment variables: DEVPOLICY_SIMULATED holds the host, its depth and the
file of the devices that all processes share; PYTHONPATH begins with a folder whose `sitecustomize`, which Python runs
when it starts, enters that host. Nothing is installed, and both are put back when the host is left.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.host import Host

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation

VARIABLE = "DEVPOLICY_SIMULATED"
HOOK = Path(__file__).with_name("hook") / "sitecustomize.py"
REFUSED = 3
"""The exit status of a child that cannot be on its parent's host."""


class Offer:
    """How a process learns of the host that it is on: a folder with the hook, and a variable.

    With `visible` a process sees of the host's GPUs those that `CUDA_VISIBLE_DEVICES` names, as on a real one; then it
    has devices of its own, which it shares with no other. A context manager, which removes the folder.
    """

    def __init__(self, host: Host, depth: str, *, visible: bool = False) -> None:
        self.folder = tempfile.mkdtemp(prefix="devpolicy-host-")
        shutil.copy(HOOK, self.folder)
        self.shared = "" if visible else str(Path(self.folder) / "devices")
        told = {"host": host.to_toml(), "depth": depth, "shared": self.shared, "folder": self.folder}
        self.environment = {VARIABLE: json.dumps({**told, "visible": visible})}

    def __enter__(self) -> Offer:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def python_path(self, path: str | None, outer: str | None = None) -> str:
        """Return PYTHONPATH with the folder before what it names, without that of an `outer` host."""
        return os.pathsep.join([self.folder, *_python_path(outer, path)])


def offer(simulation: Simulation, depth: str) -> str:
    """Tell the processes that are started from now on which host they are on. Return the file of its devices."""
    made = Offer(simulation.host, depth)
    before = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONPATH")}
    os.environ |= made.environment
    os.environ["PYTHONPATH"] = made.python_path(before["PYTHONPATH"], before[VARIABLE])
    _stop_forkserver()
    simulation.restore.append(partial(_withdraw, os.getpid(), made.folder, before))
    return made.shared


def _python_path(outer: str | None, path: str | None) -> list[str]:
    """Return the folders of PYTHONPATH, without that of a host inside which this one is entered."""
    folder = json.loads(outer)["folder"] if outer else None
    return [entry for entry in (path or "").split(os.pathsep) if entry and entry != folder]


def _withdraw(process: int, folder: str, before: dict[str, str | None]) -> None:
    if os.getpid() != process:
        return  # a fork: what the others use is not its to take away
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _stop_forkserver()
    shutil.rmtree(folder, ignore_errors=True)


def _stop_forkserver() -> None:
    """Let the next process that multiprocessing forks be of a server that starts now: it is where the last one was."""
    server = sys.modules.get("multiprocessing.forkserver")
    if server is not None and server._forkserver._forkserver_pid is not None:
        server._forkserver._stop()


def inherit() -> None:
    """Enter the host that the environment variables name. The hook calls it while Python starts."""
    given = os.environ.get(VARIABLE)
    if given is None:
        return
    from devpolicy._core.simulation.entry import enter_inherited

    told = json.loads(given)
    try:
        enter_inherited(Host.parse(told["host"]), told["depth"], told["shared"], visible=told.get("visible", False))
    except DevPolicyError as refused:
        print(f"this process cannot be on the simulated host of the one that started it: {refused}", file=sys.stderr)
        raise SystemExit(REFUSED) from None
