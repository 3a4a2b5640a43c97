"""The process that runs a model, and the one that asks it.

Owns both sides: a request is a line of JSON, and so are the steps of its progress and its result. A child answers as
many requests as come, since importing the libraries is most of its time. It sees the real machine, offline.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from devpolicy._core.child_process import ChildError, interpreter
from devpolicy._core.dry_run.checkpoint import remove_scratch
from devpolicy._core.dry_run.result import MOST_MEMORY, TIMEOUT, DryRun
from devpolicy._core.errors import DevPolicyError, Diagnostic, SimulationDepthError
from devpolicy._core.host import Host
from devpolicy._core.model.watchdog import resident
from devpolicy._core.placement.plan import Plan
from devpolicy._core.simulator.loading import require_built
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.dry_run.attempt import Progress

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    # Large tensors come from the system, and are zero until they are written.
    "MALLOC_MMAP_THRESHOLD_": "65536",
}
_TO_END = 10.0
"""Seconds that a child has to take its files away."""
_LOOK = 0.5
"""Seconds between its looks for the process that asked, and between that one's looks at its memory."""
_SIMULATED = "DEVPOLICY_SIMULATED"
"""By this variable a child would be on the host of its parent: it enters one of its own."""


Sizes = tuple[int, int, int, int]
"""Requests at once, tokens of a prompt, tokens that are generated, and beams."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a child is asked to try."""

    plan: Plan
    host: Host
    name: str
    config: str
    architecture: str | None
    folder: str | None
    """The real checkpoint, whose files are loaded; `None` for files without content."""
    sizes: Sizes

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(
            {
                "plan": self.plan.to_dict(),
                "host": self.host.to_toml(),
                "host_name": self.host.name,
                "name": self.name,
                "config": self.config,
                "architecture": self.architecture,
                "folder": self.folder,
                "sizes": self.sizes,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Request:
        """Read what `to_json` wrote."""
        data: Mapping[str, Any] = json.loads(line)
        batch, prompt, new, beams = data["sizes"]
        return cls(
            Plan.from_dict(data["plan"]),
            replace(Host.parse(data["host"]), name=data["host_name"]),
            data["name"],
            data["config"],
            data["architecture"],
            data["folder"],
            (batch, prompt, new, beams),
        )


def ask(request: Request, progress: Progress, timeout: float = TIMEOUT) -> DryRun:
    """Return the result of a child, which is started where none runs yet, and ended after `timeout` seconds.

    Raises `SimulationDepthError` where there is no simulator, `DevPolicyError` where the child ends without an answer.
    """
    require_built("phantom")
    try:
        child = _child()
    except ChildError as none:
        raise SimulationDepthError(Diagnostic("", f"a model is tried by another process: {none}")) from None
    limits = _Limits(child.process, timeout)
    try:
        return _answer(child, request, progress)
    except _EndedError as ended:
        if limits.passed:
            message = f"the dry run of `{request.name}` was stopped: it took more than {limits.passed}, the limit"
            raise DevPolicyError(Diagnostic("", message, help=limits.hint)) from None
        message = f"the process that tried `{request.name}` ended with status {ended}, without an answer"
        raise DevPolicyError(Diagnostic("", message)) from None
    finally:
        limits.done.set()


class _Limits(threading.Thread):
    """Ends a child that takes more time or memory than it may, until it is `done`."""

    def __init__(self, process: subprocess.Popen[str], timeout: float) -> None:
        super().__init__(name="devpolicy-dry-run", daemon=True)
        self.done = threading.Event()
        self.passed = self.hint = ""
        """The limit that the child has passed, empty where none, and the way out."""
        self._process, self._timeout = process, timeout
        self.start()

    def run(self) -> None:
        """Look at the child until one of both has ended."""
        end = time.monotonic() + self._timeout
        fewer = "try fewer tokens: `--prompt`, `--new-tokens`"
        while not self.done.wait(max(0, min(_LOOK, end - time.monotonic()))):
            if time.monotonic() >= end:
                self.passed = f"{self._timeout:g} seconds"
                self.hint = f"give it more, such as `--timeout {2 * self._timeout:g}`, or {fewer}"
            elif resident(self._process.pid) > MOST_MEMORY:
                self.passed, self.hint = f"{format_size(MOST_MEMORY)} of memory", fewer
            if self.passed:
                _end(self._process)
                return


class _EndedError(Exception):
    """The child ended without an answer; the argument is its status."""


def _answer(child: _Child, request: Request, progress: Progress) -> DryRun:
    """Return what a child answers. Raises `_EndedError` where it ends before."""
    try:
        child.stdin.write(request.to_json() + "\n")
        child.stdin.flush()
        for line in child.stdout:
            told = json.loads(line)
            if "step" in told:
                progress(*told["step"])
            elif "refused" in told:
                raise SimulationDepthError([Diagnostic.from_dict(one) for one in told["refused"]])
            else:
                return DryRun.from_dict(told)
    except BrokenPipeError:
        pass
    except BaseException:
        stop()
        raise
    status = child.process.wait()
    stop()
    raise _EndedError(status)


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[str]
    stdin: IO[str]
    stdout: IO[str]


@cache
def _child() -> _Child:
    environment = {name: value for name, value in os.environ.items() if name != _SIMULATED} | _ENVIRONMENT
    command = interpreter("-m", __name__)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
    )
    assert process.stdin is not None and process.stdout is not None  # INVARIANT: both are pipes
    atexit.register(stop)
    return _Child(process, process.stdin, process.stdout)


def stop() -> None:
    """End the child, if there is one. The next question starts another."""
    if _child.cache_info().currsize:
        child = _child()
        _child.cache_clear()
        _end(child.process)
        child.process.communicate()


def _end(process: subprocess.Popen[str]) -> None:
    """End a child, by force where it does not end by itself, and take away its files where it left them."""
    process.terminate()
    try:
        process.wait(_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    remove_scratch(process.pid)


def _end_with_parent() -> None:
    """End this process when the one that asked is gone, in whatever way: nobody reads its answer any more."""
    parent = os.getppid()
    while os.getppid() == parent:  # ends with the process
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by an exception, which takes its files away
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that asked ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print is no answer.
    os.dup2(2, 1)
    from devpolicy._core.dry_run.configured import run_configured

    def tell(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    for line in sys.stdin:
        try:
            found = run_configured(Request.from_json(line), lambda done, of: tell({"step": [done, of]}))
        except DevPolicyError as refused:
            findings = refused.diagnostics or (Diagnostic("", str(refused)),)
            tell({"refused": [one.to_dict() for one in findings]})
        except Exception as broken:  # noqa: BLE001 - whatever the libraries raise outside of what is tried
            reason = str(broken).strip() or type(broken).__name__
            tell({"refused": [Diagnostic("", f"the libraries cannot try this model: {reason}").to_dict()]})
        else:
            tell(found.to_dict())


if __name__ == "__main__":
    main()
