"""How the process ends by a signal, and with which streams it begins.

Owns what is taken back first: a temporary file, a hidden cursor. Nothing is raised for it, because an exception that a
signal handler raises is lost where Python ignores exceptions (in a callback of `fork`, say), and the signal with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end; of an interrupt Python makes an exception itself."""
_undo: list[Callable[[], object]] = []


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` where a signal ends the process within the block. Otherwise the block takes back what it does."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def watch_signals() -> None:
    """Take back what has been begun before a signal ends the process. A signal that is ignored stays so (`nohup`)."""
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for undo in reversed(_undo):
        with suppress(Exception):
            undo()
    # Now as if nobody had waited for it, so that whoever started this sees why it ended.
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def open_streams() -> None:
    """Open standard streams that the parent process has closed; what is written to them is discarded.

    Else the next file that is opened would take the number of the stream, and be written to in its place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for the whole process
