"""The command line.

Owns arguments, exit statuses and what a person or a script is shown; every decision is the engine's. Click parses,
Rich is imported only to colour a terminal. Nothing here is imported by the rest of the package.

Exit statuses: 0 fine; 1 findings of `check`, or a plan that is not the locked one; 2 an invalid policy or usage;
3 a valid policy that this host, model and consumer cannot satisfy; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Never

__all__ = ["main"]

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end; of an interrupt Python makes an exception itself."""


class Ended(BaseException):
    """A signal came that ends the process. It is raised so that what was begun is taken back first."""

    def __init__(self, number: int) -> None:
        self.number = number


def main() -> None:
    """Run `devpolicy` with the process's arguments, and exit."""
    _open_streams()
    try:
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:  # and not `nohup`, which has it ignored
                signal.signal(number, _end)
        from devpolicy.cli.app import app

        app(prog_name="devpolicy")
    except KeyboardInterrupt:
        # While Click was still being imported; afterwards the application answers for it.
        raise SystemExit(130) from None
    except Ended as ended:
        # Now as if nobody had waited for it, so that whoever started this sees why it ended.
        signal.signal(ended.number, signal.SIG_DFL)
        signal.raise_signal(ended.number)


def _end(number: int, _: FrameType | None) -> Never:
    # A second one does not come between what is taken back.
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)
    raise Ended(number)


def _open_streams() -> None:
    """Open streams that whoever started this has closed: what is written to them goes nowhere.

    Else the next file that is opened would take the number of the stream, and be written to in its place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for the whole process
