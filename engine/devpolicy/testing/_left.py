"""Processes that a test starts on a simulated host without `children`, which see the real machine.

Owns how they are detected, and the note on them in the report of a failed test. A fork goes on with the host, so it is
none.
"""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

_SHOWN = 3


@contextmanager
def noticed() -> Iterator[list[str]]:
    """Collect the names of the processes that are started meanwhile, by `subprocess` and `multiprocessing`."""
    names: list[str] = []
    popen, start = subprocess.Popen.__init__, BaseProcess.start

    @wraps(popen)
    def opened(process: Any, args: Any, *others: Any, **options: Any) -> None:
        names.append(_command(args))
        popen(process, args, *others, **options)

    @wraps(start)
    def started(process: Any) -> None:
        if (process._start_method or multiprocessing.get_start_method()) != "fork":
            names.append(process.name)
        start(process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", opened)
        patch.setattr(BaseProcess, "start", started)
        yield names


def sentence(names: list[str], host: str) -> str:
    """Return which processes left a host, and how they would be on it."""
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
    return (
        f"{len(names)} process{'es' if len(names) > 1 else ''} that the test started left `{host}` for the real "
        f"machine: {shown}\n"
        "with `--devpolicy-children`, or `children=True` in the mark, Python processes are on the host too"
    )


def _command(args: Any) -> str:
    first = args if isinstance(args, str | bytes | Path) else next(iter(args), "")
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return Path(text.split(maxsplit=1)[0]).name if text.strip() else "?"
