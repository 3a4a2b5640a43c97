"""Questions that another process answers, so that this one survives a library that hangs, exits or crashes.

Owns starting this interpreter once more, the limits on a child's time and output, and the protocol: the child prints
one line of JSON behind `MARK`, and ends. torch, NVML and the libraries of `doctor` are asked so. A child that answers
many questions is `dry_run`'s, and is started by the same command.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO

MARK = "devpolicy-probe:"
"""What an answer begins with; what a library prints before it does not."""
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises that is not of the form that it should have."""
MOST_PRINTED = 1 << 20
"""Bytes that a child may print, on each of its two streams. An answer has some hundred for each device."""
_GRACE = 5.0
"""Seconds after its limit at which a child ends by itself, for one whose parent is gone."""
_LOOK = 0.05
"""Seconds between looks whether a child has ended whose streams are open."""
_AFTER_END = 1.0
"""Seconds for which its streams are read after its end."""

# Processes that did not die when they were killed, as in a driver's system call. They are kept so that they are reaped.
_left: list[subprocess.Popen[bytes]] = []


class ChildError(Exception):
    """A child gave no answer; its text is the reason, as the line of a fault."""


class ChildTimeout(ChildError):  # noqa: N818 - as above
    """It gave none in its time."""


def ask(command: Sequence[str], timeout: float) -> dict[str, Any]:
    """Return the answer of a child process. Raises `ChildError`, and nothing else.

    `timeout` is in seconds. What a library prints before its answer is passed over; its last line on standard error is
    the reason where there is no answer.
    """
    try:
        output, errors, status = run(command, timeout)
    except (OSError, ValueError, RuntimeError) as broken:  # RuntimeError: the system has no thread to read it with
        raise ChildError(f"cannot start a process to ask: {one_line(broken)}") from None
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        told = json.loads(lines[-1].removeprefix(MARK))
        if isinstance(told, dict):
            return told
    except MALFORMED:
        pass
    raise ChildError(_ended(errors, status))


def interpreter(*arguments: str) -> list[str]:
    """Return the command that starts this interpreter with some arguments. Raises `ChildError` where there is none."""
    # In a frozen application `sys.executable` is the application: it would be started once more.
    if not sys.executable or getattr(sys, "frozen", False):
        raise ChildError("this program has no Python interpreter to ask with")
    # -P: a folder with a torch.py or json.py of its own is not where the child looks first.
    return [sys.executable, "-P", *arguments]


def time_limit(timeout: float) -> list[str]:
    """Return the argument of a child that sets after how many seconds it ends by itself."""
    return [str(min(timeout, threading.TIMEOUT_MAX / 2) + _GRACE)]


class _Stream(threading.Thread):
    """Reads what a child prints on one stream, up to the limit, and closes it."""

    def __init__(self, stream: FileIO, ended: threading.Condition) -> None:
        super().__init__(name="devpolicy-probe", daemon=True)
        self.printed = bytearray()
        self.is_open = True
        self._stream, self._ended = stream, ended
        self.start()

    def run(self) -> None:
        """Read until the end, or until it is too much: then the child waits, and is killed."""
        with suppress(OSError), self._stream:
            while len(self.printed) <= MOST_PRINTED and (chunk := self._stream.read(1 << 16)):
                self.printed += chunk
        with self._ended:
            self.is_open = False
            self._ended.notify()


def timeout_message(seconds: float) -> str:
    """Return the fault of a source that did not answer."""
    return f"no answer within {seconds:g} seconds"


def run(command: Sequence[str], timeout: float) -> tuple[str, str, int]:
    """Return what a command printed, what it complained of, and its status.

    Raises `ChildTimeout`, `ChildError` where it prints too much, `OSError` or `ValueError` where it cannot be started.
    """
    _left[:] = [process for process in _left if process.poll() is None]
    pipe: Any = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, bufsize=0)
    ended = threading.Condition()
    streams: list[Any] = [process.stdout, process.stderr]
    try:
        readers = [_Stream(stream, ended) for stream in streams]
        status = _wait(process, readers, ended, time.monotonic() + timeout)
    finally:
        _end(process)
    if any(len(reader.printed) > MOST_PRINTED for reader in readers):
        raise ChildError(f"it printed more than {MOST_PRINTED >> 20} MiB")
    if status is None:
        raise ChildTimeout(timeout_message(timeout))
    output, errors = (bytes(reader.printed).decode(errors="replace") for reader in readers)
    return output, errors, status


def _wait(
    process: subprocess.Popen[bytes], readers: Sequence[_Stream], ended: threading.Condition, deadline: float
) -> int | None:
    """Return the status of a child that has ended, `None` where it has not in time or prints too much."""
    while True:
        left = deadline - time.monotonic()
        with ended:
            if left > 0 and all(reader.is_open for reader in readers):
                ended.wait(min(left, _LOOK))
        if left <= 0 or any(len(reader.printed) > MOST_PRINTED for reader in readers):
            return None
        if process.poll() is not None:
            # A process that it started may hold its streams open.
            for reader in readers:
                reader.join(_AFTER_END)
            return process.returncode
        if not any(reader.is_open for reader in readers):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(left)
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs. One that hangs inside a driver does not die of a signal: it is not waited for."""
    if process.poll() is not None:
        return
    with suppress(OSError):
        process.kill()
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        _left.append(process)


def _ended(errors: str, status: int) -> str:
    """Return how a child without an answer ended."""
    if status < 0:
        with suppress(ValueError):
            return f"it crashed with {signal.Signals(-status).name}"
        return f"it crashed with signal {-status}"
    last = one_line((errors.strip().splitlines() or [""])[-1])
    return last or f"its process ended with status {status}"
