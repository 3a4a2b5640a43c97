"""Threads, where there are any.

Owns what becomes of work for threads on a system that starts none: a browser's Python, or a process at its limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def started(thread: threading.Thread) -> bool:
    """Start a thread, and return whether the system has one for it."""
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"
        return False
    return True


def map_in_threads(work: Callable[[Thing], Result], things: Sequence[Thing], at_once: int) -> Iterator[Result]:
    """Yield the result for each thing, in order; without threads one after the other."""
    if not started(threading.Thread(target=lambda: None, name="devpolicy-trial", daemon=True)):
        yield from map(work, things)
        return
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(work, things)
