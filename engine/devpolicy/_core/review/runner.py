"""Runs all tests of several suites.

Owns how tests are divided into pieces of work, and how results are put in the tests' order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from devpolicy._core.review.parallel_map import Progress, parallel_map
from devpolicy._core.review.run import Case, Result, run_case
from devpolicy._core.review.suites import Suite

_SLICE = 64
"""Hosts of one test that are run in one piece."""


class _Piece(NamedTuple):
    suite: int
    test: int
    start: int
    end: int


def run_all(suites: Sequence[Suite], *, jobs: int | None = None, progress: Progress | None = None) -> list[Result]:
    """Run every test and return the results in the tests' order. They do not depend on the number of processes."""
    pieces = list(_pieces(suites))
    done = parallel_map(_run, suites, pieces, jobs=jobs, progress=progress)
    return _results(suites, pieces, done)


def _pieces(suites: Sequence[Suite]) -> Iterator[_Piece]:
    for number, suite in enumerate(suites):
        for at, bound in enumerate(suite.tests):
            for start in range(0, len(bound.variants), _SLICE):
                yield _Piece(number, at, start, start + _SLICE)


def _run(suites: Sequence[Suite], piece: _Piece) -> tuple[list[Case], float]:
    begun = time.perf_counter()
    bound = suites[piece.suite].tests[piece.test]
    cases = [run_case(bound, variant) for variant in bound.variants[piece.start : piece.end]]
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
        for at, bound in enumerate(suite.tests):
            made, took = tuple(cases.get((number, at), ())), seconds.get((number, at), 0.0)
            results.append(Result(suite.name, bound.test.name, bound.test.place, made, took))
    return results
