"""A limit on the time and memory that Transformers takes to build a model.

Owns what no look at a configuration can tell: whether its model's code ends. A block of code is watched by a thread,
which stops it with an exception. The exception comes between two steps of Python; one call into C is not stopped, and
is bounded by the numbers that a configuration may hold (`devpolicy._core.model.bounds`).
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.limits import LONGEST_BUILD, MOST_BUILD_MEMORY
from devpolicy._core.sizes import format_size
from devpolicy._core.threads import started

_LOOK = 0.25
"""Seconds between looks at a block."""
_AGAIN = 1.0
"""Seconds until a block is stopped once more, whose code has caught the exception."""

_STEPS = 1_000
"""Steps of Python within which an exception comes that another thread has thrown."""

_watching: ContextVar[_Watch | None] = ContextVar("devpolicy_watching", default=None)


class _Stop(BaseException):
    """What stops a block. No `Exception`: model code catches those."""


@contextmanager
def watched() -> Iterator[None]:
    """Stop the block where it takes more time or memory than a model needs. Raises `ModelError` (DP104).

    A block within a watched block is part of it. Costs the start of a thread.
    """
    if _watching.get() is not None:
        yield
        return
    watch = _Watch()
    token = _watching.set(watch)
    try:
        try:
            yield
        finally:
            watch.end()
    except (_Stop, Exception):
        watch.end()  # it may have been stopped in the first one
        if watch.reason is None:
            raise
    finally:
        _watching.reset(token)
    if watch.reason is not None:
        message = f"reading this model takes {watch.reason}"
        raise ModelError(Diagnostic("DP104", message, help="describe it in a model file: `devpolicy model --help`"))


class _Watch:
    """A thread that looks at the one that makes it, until `end`."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._watched = ctypes.c_ulong(threading.get_ident())
        self._clock = _clock()
        self._began, self._held = self._clock(), resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="devpolicy-watchdog", daemon=True)
        self._looks = started(self._thread)  # without threads there is no one to look

    def _look(self) -> None:
        """Stop the other thread as often as it takes. Ends with the block."""
        while not self._ended.wait(_LOOK):
            self.reason = self.reason or self._beyond()
            if self.reason is not None:
                self._throw()
                self._ended.wait(_AGAIN)

    def _beyond(self) -> str | None:
        if self._clock() - self._began > LONGEST_BUILD:
            return f"longer than {LONGEST_BUILD} seconds of computing, the limit"
        if resident() - self._held > MOST_BUILD_MEMORY:
            return f"more than {format_size(MOST_BUILD_MEMORY)} of memory, the limit"
        return None

    def _throw(self) -> None:
        if not self._ended.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._watched, ctypes.py_object(_Stop))

    def end(self) -> None:
        """Look no longer: behind this nothing is stopped any more, not even by what was on its way.

        What is on its way comes here. It is not taken back: CPython 3.11 would look for it at every step from then on,
        and hang under a profiler, a debugger or a measurement of coverage.
        """
        self._ended.set()
        if self._looks:
            self._thread.join()
        if self.reason is not None:
            with suppress(_Stop):
                for _ in range(_STEPS):
                    pass


def _clock() -> Callable[[], float]:
    """Return the clock of this thread's computing time, that of the process where threads have none."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    if clock_of is None:
        return time.process_time
    number: int = clock_of(threading.get_ident())
    return lambda: time.clock_gettime(number)


def resident(process: int | None = None) -> int:
    """Return the bytes of memory that a process holds, this one by default; 0 where it has ended."""
    try:
        import psutil
    except ImportError:
        return 0  # then time is the limit alone
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return 0
