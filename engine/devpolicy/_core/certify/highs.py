"""The optimum of a relaxation, by HiGHS.

Owns the use of `highspy`. Nodes are limited and time is not, so that a bound is the same on every machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from devpolicy._core.certify.relaxation import Device, Relaxation

NODES = 2_000
_MS = 10**15
_GIB = 1 << 30
_FREE = float("inf")


def available() -> bool:
    """Whether `highspy` is installed."""
    try:
        import highspy  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def _silenced() -> Iterator[None]:
    """Send what C++ writes to standard output nowhere: HiGHS prints a banner before it can be turned off."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


class Model:
    """A model of HiGHS, in milliseconds of a request and GiB, so that its tolerances mean something."""

    def __init__(self) -> None:
        import highspy

        self.highspy: Any = highspy
        with _silenced():
            self.solver: Any = self.highspy.Highs()
        for option, value in (("output_flag", False), ("mip_max_nodes", NODES), ("mip_rel_gap", 1e-6), ("threads", 1)):
            self.solver.setOptionValue(option, value)
        self.count = 0

    def variable(self, cost: float, most: float, *, whole: bool) -> int:
        """Add a variable from 0 to `most`, and return its number."""
        self.solver.addCol(cost, 0.0, most, 0, [], [])
        if whole:
            self.solver.changeColIntegrality(self.count, self.highspy.HighsVarType.kInteger)
        self.count += 1
        return self.count - 1

    def row(self, low: float, high: float, terms: dict[int, float]) -> None:
        """Add a sum of variables that must be within bounds."""
        self.solver.addRow(low, high, len(terms), list(terms), list(terms.values()))

    def bound(self) -> float | None:
        """Return what no solution is below; `None` where there is none."""
        self.solver.run()
        if self.solver.getModelStatus() == self.highspy.HighsModelStatus.kInfeasible:
            return None
        return float(self.solver.getInfo().mip_dual_bound)


_Resident = dict[tuple[int, int], int]
"""The variable of so many units of a kind that run on a device, by the numbers of both."""
_Away = dict[tuple[int, str], int]
"""The same of those that are kept in a place."""


def least_time(relaxed: Relaxation) -> int | None:
    """Return attoseconds that no answer is below, `None` where there is no answer."""
    model = Model()
    used = {one.number: model.variable(relaxed.device_hop / _MS, 1, whole=True) for one in relaxed.devices}
    resident, away = _kinds(model, relaxed)
    buffer = _buffer(model, relaxed, away)
    for one in relaxed.devices:
        terms = _held(model, relaxed, one, used[one.number], resident)
        if one.number == relaxed.main:
            terms |= _held_by_main(relaxed, one, buffer, away)
            model.row(1, 1, {used[one.number]: 1.0})
        if terms:
            model.row(-_FREE, max(0, one.room) / _GIB, terms)
        elif one.room < 0 and not one.required:
            model.row(0, 0, {used[one.number]: 1.0})
    for place, room in relaxed.rooms:
        sizes = {
            column: (relaxed.kinds[at].weights if place == "cpu" else relaxed.kinds[at].rewritten) / _GIB
            for (at, where), column in away.items()
            if where == place
        }
        if sizes:
            model.row(-_FREE, max(0, room) / _GIB, sizes)
    _order_alike(model, relaxed, used)
    found = model.bound()
    # Of so many devices in use, all but one are entered by a hand-over.
    return None if found is None else int(found * _MS) - relaxed.device_hop + relaxed.fixed


def _kinds(model: Model, relaxed: Relaxation) -> tuple[_Resident, _Away]:
    """Add the variables of every kind: each of its units runs somewhere, or is kept somewhere."""
    resident: _Resident = {}
    away: _Away = {}
    usable = [one.number for one in relaxed.devices]
    for at, kind in enumerate(relaxed.kinds):
        allowed = usable if kind.allowed is None else kind.allowed
        if kind.runs_on_main and relaxed.main is not None:
            allowed = [relaxed.main]
        mine: list[int] = []
        for number in (number for number in allowed if number in usable):
            resident[at, number] = model.variable(kind.times[number] / _MS, kind.count, whole=True)
            mine.append(resident[at, number])
        for place, time in kind.away:
            assert relaxed.main is not None  # INVARIANT: nothing goes where there is no main device
            cost = (time + kind.times[relaxed.main]) / _MS
            away[at, place] = model.variable(cost, kind.count, whole=True)
            mine.append(away[at, place])
        model.row(kind.count, kind.count, dict.fromkeys(mine, 1.0))
    return resident, away


def _buffer(model: Model, relaxed: Relaxation, away: _Away) -> int:
    """Add the variable of the room for what is streamed, at least the largest unit that is kept somewhere."""
    buffer = model.variable(0, _FREE, whole=False)
    for (at, _), column in away.items():
        kind = relaxed.kinds[at]
        goes = model.variable(0, 1, whole=True)
        model.row(-_FREE, 0, {column: 1.0, goes: -float(kind.count)})
        # What is streamed in any case is in the main device's room already.
        model.row(-_FREE, 0, {goes: max(0, kind.onload_peak - relaxed.streaming) / _GIB, buffer: -1.0})
    return buffer


def _held(model: Model, relaxed: Relaxation, one: Device, used: int, resident: _Resident) -> dict[int, float]:
    """Return what runs on a device, in GiB a unit; a device on which anything runs is in use."""
    terms: dict[int, float] = {}
    for (at, number), column in resident.items():
        if number == one.number:
            kind = relaxed.kinds[at]
            terms[column] = (kind.weights + kind.buffers if one.weights_only else kind.weights_and_cache) / _GIB
            model.row(-_FREE, 0, {column: 1.0, used: -float(kind.count)})
    return terms


def _held_by_main(relaxed: Relaxation, one: Device, buffer: int, away: _Away) -> dict[int, float]:
    """Return what the main device holds of what is kept elsewhere, in GiB a unit."""
    terms = {buffer: 1.0}
    for (at, _), column in away.items():
        kind = relaxed.kinds[at]
        terms[column] = (kind.buffers + (0 if one.weights_only else kind.cache)) / _GIB
    return terms


def _order_alike(model: Model, relaxed: Relaxation, used: Mapping[int, int]) -> None:
    """Use the first of two devices that are alike: the other way round is the same answer."""
    for first, second in zip(relaxed.devices, relaxed.devices[1:], strict=False):
        alike = (first.room, first.weights_only) == (second.room, second.weights_only) and all(
            kind.times[first.number] == kind.times[second.number] for kind in relaxed.kinds
        )
        if alike and relaxed.main not in (first.number, second.number):
            model.row(0, _FREE, {used[first.number]: 1.0, used[second.number]: -1.0})
