"""The same work on many things, in several processes where that is worth it.

Owns that results come in the order of the things, and do not depend on the number of processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Shared = TypeVar("Shared")
Thing = TypeVar("Thing")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Is told how many things are done, of how many."""

ALONE = 0.5
"""Seconds after which further processes are started: what is done by then is not worth them."""


def spread(
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
        with ProcessPoolExecutor(min(most, len(left)), initializer=_begin, initargs=(work, shared)) as pool:
            for result in pool.map(_there, left):
                done.append(result)
                tell(len(done), len(things))
    return done


_given: tuple[Callable[[Any, Any], Any], Any] | None = None
"""In a process of the pool: the work, and what all of it shares."""


def _begin(work: Callable[[Any, Any], Any], shared: Any) -> None:
    global _given
    _given = work, shared


def _there(thing: Any) -> Any:
    assert _given is not None  # INVARIANT: the pool calls `_begin` first
    work, shared = _given
    return work(shared, thing)
