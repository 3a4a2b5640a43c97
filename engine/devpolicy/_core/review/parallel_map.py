"""A map over many things, in several processes if that is worth it.

Owns that results come in the order of the things, do not depend on the number of processes, and that no process
outlives the one that asked for it, however that one ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from devpolicy._core.errors import DevPolicyError, Diagnostic

Shared = TypeVar("Shared")
Thing = TypeVar("Thing")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with the number of things that are done, and of all."""

ALONE = 0.5
"""Seconds after which further processes are started: shorter work is not worth them."""

_BATCH = 32


def parallel_map(
    work: Callable[[Shared, Thing], Result],
    shared: Shared,
    things: Sequence[Thing],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Return `work(shared, thing)` for each thing.

    `jobs` processes are used, by default as many as there are cores, and only where it takes longer than half a second.
    `work` is a function of a module, and what it is given can be pickled; `shared` goes to each process once.
    """
    most = jobs if jobs is not None else os.cpu_count() or 1
    begun = time.monotonic()
    tell = progress or (lambda done, of: None)
    done: list[Result] = []
    for thing in things:
        if most > 1 and (jobs is not None or time.monotonic() - begun > ALONE):
            break
        done.append(work(shared, thing))
        tell(len(done), len(things))
    left = things[len(done) :]
    if left:
        with closing(_elsewhere(work, shared, left, min(most, len(left)))) as results:
            for result in results:
                done.append(result)
                tell(len(done), len(things))
    return done


def _elsewhere(work: Callable[[Any, Any], Any], shared: Any, things: Sequence[Any], jobs: int) -> Generator[Any]:
    """Yield the results of `jobs` processes. They end with this one, and at once where this is left early."""
    theirs, ours = Pipe(duplex=False)
    given: tuple[Any, ...] = (work, shared, theirs, ours)
    with theirs, ours, ProcessPoolExecutor(jobs, initializer=_begin, initargs=given) as pool:
        try:
            # Not `map`, which cancels what is left: the pool then has nothing to tell that its processes ended.
            # Things go in batches, because sending one may take longer than the work on it.
            size = max(1, min(_BATCH, len(things) // (jobs * 4)))
            batches = [things[at : at + size] for at in range(0, len(things), size)]
            for future in [pool.submit(_there, batch) for batch in batches]:
                yield from future.result()
        except BrokenProcessPool:
            hint = "the memory may be full: `--jobs 1` uses one process"
            raise DevPolicyError(
                Diagnostic("", "a process that was planning was ended from outside", help=hint)
            ) from None
        except BaseException:
            ours.close()
            raise


_given: tuple[Callable[[Any, Any], Any], Any] | None = None
"""In a process of the pool: the work, and what all of it shares."""


def _begin(work: Callable[[Any, Any], Any], shared: Any, theirs: Connection, ours: Connection) -> None:
    global _given
    # An interrupt of the terminal comes to every process of it; the one that asked ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ours.close()
    threading.Thread(target=_end_with, args=(theirs,), daemon=True).start()
    _given = work, shared


def _end_with(theirs: Connection) -> None:
    """End this process when nobody is left at the other end: the one that asked has closed it, or is gone.

    Processes that were forked later hold the other end too, until they begin or end themselves.
    """
    try:
        theirs.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _there(things: Sequence[Any]) -> list[Any]:
    assert _given is not None  # INVARIANT: the pool calls `_begin` first
    work, shared = _given
    return [work(shared, thing) for thing in things]
