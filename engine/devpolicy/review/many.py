"""Many tests at once.

Owns the order of results, which is the tests' own, and the sharing of work among processes: what is done within half a
second is done here, and only the rest is worth further processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from devpolicy.review.run import Case, Result, run_case
from devpolicy.review.suites import Suite

ALONE = 0.5
"""Seconds after which further processes are started."""
_SLICE = 64
"""Hosts of one test that are run in one piece."""

Progress = Callable[[int, int], None]
"""Is told how many pieces are done, of how many."""


class _Piece(NamedTuple):
    suite: int
    test: int
    start: int
    end: int


def run_all(suites: Sequence[Suite], *, jobs: int | None = None, progress: Progress | None = None) -> list[Result]:
    """Run every test and return the results in the tests' order.

    `jobs` processes are used, by default as many as there are cores and only where the tests take longer than half a
    second. The results do not depend on it.
    """
    pieces = list(_pieces(suites))
    done: list[tuple[list[Case], float]] = []
    most = jobs if jobs is not None else os.cpu_count() or 1
    begun = time.monotonic()
    tell = progress or (lambda done, of: None)
    for piece in pieces:
        if most > 1 and (jobs is not None or time.monotonic() - begun > ALONE):
            break
        done.append(_run(suites, piece))
        tell(len(done), len(pieces))
    left = pieces[len(done) :]
    if left:
        with ProcessPoolExecutor(min(most, len(left)), initializer=_begin, initargs=(suites,)) as pool:
            for one in pool.map(_run_there, left):
                done.append(one)
                tell(len(done), len(pieces))
    return _results(suites, pieces, done)


def _pieces(suites: Sequence[Suite]) -> Iterator[_Piece]:
    for number, suite in enumerate(suites):
        for at, ready in enumerate(suite.tests):
            for start in range(0, len(ready.variants), _SLICE):
                yield _Piece(number, at, start, start + _SLICE)


_suites: Sequence[Suite] = ()
"""In a process of the pool: what its pieces are pieces of."""


def _begin(suites: Sequence[Suite]) -> None:
    global _suites
    _suites = suites


def _run_there(piece: _Piece) -> tuple[list[Case], float]:
    return _run(_suites, piece)


def _run(suites: Sequence[Suite], piece: _Piece) -> tuple[list[Case], float]:
    begun = time.perf_counter()
    ready = suites[piece.suite].tests[piece.test]
    cases = [run_case(ready, variant) for variant in ready.variants[piece.start : piece.end]]
    return cases, time.perf_counter() - begun


def _results(
    suites: Sequence[Suite], pieces: Iterable[_Piece], done: Iterable[tuple[list[Case], float]]
) -> list[Result]:
    cases: dict[tuple[int, int], list[Case]] = {}
    seconds: dict[tuple[int, int], float] = {}
    for piece, (found, took) in zip(pieces, done, strict=True):
        test = piece.suite, piece.test
        cases.setdefault(test, []).extend(found)
        seconds[test] = seconds.get(test, 0.0) + took
    results: list[Result] = []
    for number, suite in enumerate(suites):
        for at, ready in enumerate(suite.tests):
            made, took = tuple(cases.get((number, at), ())), seconds.get((number, at), 0.0)
            results.append(Result(suite.name, ready.test.name, ready.test.place, made, took))
    return results
