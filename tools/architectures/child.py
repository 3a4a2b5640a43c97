"""Processes for what may take for ever, end its process, or leave something behind."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

SECONDS = 120
"""Of the processor, for one child."""
WAIT = 900
"""By the clock."""
_MEMORY = 12 << 30
_fork = threading.Lock()


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` returns in a fork of this process, or what became of it."""
    with _fork:  # a child that had another's end of its pipe would keep it open
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                _answer(work, writer)
            finally:
                os._exit(0)  # whatever happens: this is a copy of a process that goes on elsewhere
        os.close(writer)
    text = _read(reader, child)
    _, status = os.waitpid(child, 0)
    if not text:
        return {"failed": "crash", "error": f"its process ended with status {status}"}
    answer: dict[str, Any] = json.loads(text)
    return answer


def _answer(work: Callable[[], dict[str, Any]], writer: int) -> None:
    global _fork
    _fork = threading.Lock()  # the parent's is held
    _limit()
    try:
        answer = work()
    except BaseException as broken:  # noqa: BLE001 - a model may raise anything, and is one of hundreds
        answer = {"failed": "crash", "error": f"{type(broken).__name__}: {' '.join(str(broken).split())[:300]}"}
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(answer, default=str))


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _read(reader: int, child: int) -> str:
    parts, end = [], time.monotonic() + WAIT
    with os.fdopen(reader, "rb") as pipe:
        while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)
        os.kill(child, signal.SIGKILL)
    return ""
