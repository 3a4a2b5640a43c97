"""Runs of layers on devices in the order of their ids, where a part of each layer may leave.

Owns the search for the runs with which most can stay. Of the last layer of a run, what has no room may go to the device
of the next run. A dynamic programme over devices, ends, and how much goes on to the next one; of parts of unlike sizes
the room for them is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import NamedTuple

from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.search import Problem


@dataclass(frozen=True, slots=True)
class Run:
    """What a device has: the clusters from `begin` to `end`."""

    device: int
    begin: int
    end: int
    received: Sequence[Unit]
    """Parts of the layer before the run."""
    passed: Sequence[Unit]
    """Parts of the last layer that go to the next run's device."""
    left: int
    """Bytes beside the clusters and what is received."""
    narrow: bool = False
    """Whether only gates stay, and fewer activations are counted: see `Activations.narrow`."""


class _Device(NamedTuple):
    number: int
    room: int
    weights_only: bool
    several: int
    """Bytes that more than one layer takes besides, where the first one is elsewhere."""
    joins: int
    """Bytes that taking parts of a layer takes besides."""
    joined: int
    """Bytes that the last matrix of such a layer takes besides, where others of it are elsewhere."""
    between: bool
    """Whether a part of each of two layers takes neither: see `between_layers`."""
    narrow: int
    """Bytes that a device with gates alone takes less; 0 where that is not tried."""


_State = tuple[int, int]
"""Where the runs end, and how many parts of the last layer go on to the next device."""


class _Step(NamedTuple):
    """How a device's run goes on from a state: `Run` in numbers."""

    device: _Device
    begin: _State
    end: _State
    left: int
    narrow: bool


_Chain = tuple["_Chain", _Step] | None
"""The steps to a state: the last one, and those before it."""


def most_kept(problem: Problem, optional: Sequence[Sequence[Unit]], *, narrow: bool, several: bool) -> list[Run] | None:
    """Return the runs with which most of what is `optional` can stay, `None` where not even the rest fits.

    `optional` are the parts of each cluster, in the order in which they are kept. With `narrow`, a device may have
    gates alone; with `several`, what more than one layer takes is counted as if devices were used in their order.
    """
    context, (bins, _) = problem.context, problem.bins(None)
    needs, layers = context.sizing.activations, _Layers(problem, optional)

    def saved(number: int) -> int:
        return context.fixed(number) - replace(context, narrow=frozenset({number})).fixed(number)

    devices = [
        _Device(
            number,
            one.budget - one.fixed,
            one.weights_only,
            needs.several * (several and context.layers.get(number, 0) < 1 and not layers.behind_cpu),
            needs.parted * (context.layers.get(number, 0) < 2),
            needs.joined * (context.layers.get(number, 0) < 3),
            needs.narrow > 0,
            saved(number) if narrow else 0,
        )
        for number, one in bins.items()
    ]
    choices = [[one] for one in devices] if context.policy.split == "never" else [devices]
    kept = [_best(layers, chosen) for chosen in choices]
    return max(filter(None, kept), key=lambda one: one[0], default=(0, None))[1]


class _Layers:
    """The clusters in bytes: what each holds in any case, and the parts that may leave."""

    def __init__(self, problem: Problem, optional: Sequence[Sequence[Unit]]) -> None:
        self.sums, self.optional = problem.sums, optional
        self.parts = [[part.weights for part in of] for of in optional]
        self.gates = [[part.weights for part in of if is_gate(part)] for of in optional]
        self.sizes = [0, *accumulate(sum(of) for of in self.parts)]
        units, pinned = problem.units, problem.assignment.pinned
        self.count = [0, *accumulate(units[of[0]].layer is not None for of in problem.assignment.clusters)]
        """How many of the clusters before each are layers."""
        on_cpu = (units[at] for at, (number, _) in pinned.items() if number == problem.context.cpu_number)
        self.behind_cpu = any(unit.layer is not None and "exps" not in unit.path for unit in on_cpu)
        """Whether the CPU has layers, and not only experts."""
        self.least = min((size for of in self.parts for size in of if size), default=1)

    def run(self, step: _Step) -> Run:
        """Return a step with the parts that are received and passed."""
        (begin, count), (end, passed) = step.begin, step.end
        before = self.optional[begin - 1] if count else ()
        last = self.optional[end - 1] if passed else ()
        received, parts = before[len(before) - count :], last[len(last) - passed :]
        return Run(step.device.number, begin, end, received, parts, step.left, step.narrow)


def _best(layers: _Layers, devices: Sequence[_Device]) -> tuple[int, list[Run]] | None:
    """Return the most bytes that can stay on devices, and the runs; `None` where they do not fit."""
    best: dict[_State, tuple[int, _Chain]] = {(0, 0): (0, None)}
    for device in devices:
        after = dict(best)
        for state, (kept, before) in best.items():
            steps: Iterator[_Reached] = _steps(layers, device, state)
            if device.narrow > 0 and not state[1]:
                steps = chain(steps, _narrow_steps(layers, device, state[0]))
            for gained, reached, left, narrow in steps:
                if reached not in after or kept + gained > after[reached][0]:
                    after[reached] = kept + gained, (before, _Step(device, state, reached, left, narrow))
        best = after
    found = best.get((len(layers.sums), 0))
    if found is None:
        return None
    kept, last = found
    runs: list[Run] = []
    while last is not None:
        last, step = last
        runs.append(layers.run(step))
    return kept, runs[::-1]


_Reached = tuple[int, _State, int, bool]
"""The bytes that stay on a device, the state behind its run, `Run.left` and `Run.narrow`."""


def _steps(layers: _Layers, device: _Device, state: _State) -> Iterator[_Reached]:
    """Yield the runs of one device behind a state."""
    (begin, count), least, sizes = state, layers.least, layers.sizes
    before = layers.parts[begin - 1] if count else []
    brought = sum(before[len(before) - count :])
    apart = 0 < count < len(before)
    held = layers.sums.weights if device.weights_only else layers.sums.with_cache
    rooms, parted = device.room - brought + held[begin], device.joins if count else 0
    for end in range(begin + 1, len(held)):
        room, own = rooms - held[end], sizes[end] - sizes[begin]
        # The last matrix of the layer before takes more beside two of another one, and not beside a single one.
        joined = device.joined if apart and own else 0
        several = (
            device.several if layers.count[begin] and layers.count[end] - layers.count[begin] + (count > 0) > 1 else 0
        )
        left = max(room - several - parted - joined, min(room - several - parted, 2 * least - 1))
        if apart and device.between and end == begin + 1 and left < own:
            left = max(left, min(room - joined, own - 1), min(room, 2 * least - 1))
        if left < 0:
            break
        filled, stay = left // least * least, own
        yield brought + min(stay, filled), (end, 0), left, False
        if own > left >= own - (sizes[end] - sizes[end - 1]):
            for passed, size in enumerate(reversed(layers.parts[end - 1]), start=1):
                stay -= size
                yield brought + min(stay, filled), (end, passed), left, False


def _narrow_steps(layers: _Layers, device: _Device, begin: int) -> Iterator[_Reached]:
    """Yield the runs of one device with only gates, as `_steps` does: nothing is received, and nothing passed."""
    held = layers.sums.weights if device.weights_only else layers.sums.with_cache
    room, gates, smallest = device.room + device.narrow + held[begin], 0, 0
    for end in range(begin + 1, len(held)):
        left = room - held[end]
        if left < 0:
            break
        own = layers.gates[end - 1]
        gates += sum(own)
        smallest = min([smallest or sum(own), *own])
        stay = min(gates, left // smallest * smallest) if smallest else 0
        yield stay, (end, 0), left, True


def is_gate(part: Unit) -> bool:
    """Whether a part is the matrix of experts that makes their gates."""
    return part.path.endswith("ffn_gate_exps")
