"""Runs of layers on devices in the order of their ids, where a part of each layer may leave.

Owns the search for the runs with which most can stay. Of the last layer of a run, what has no room may go to the device
of the next run. A dynamic programme over devices, ends, and how much goes on to the next one; of parts of unlike sizes
the room for them is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
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


def most_kept(problem: Problem, optional: Sequence[Sequence[Unit]], *, narrow: bool) -> list[Run] | None:
    """Return the runs with which most of what is `optional` can stay, `None` where not even the rest fits.

    `optional` are the parts of each cluster, in the order in which they are kept. With `narrow`, a device may have
    gates alone.
    """
    context, (bins, _) = problem.context, problem.bins(None)
    needs = context.sizing.activations

    def saved(number: int) -> int:
        return context.fixed(number) - replace(context, narrow=frozenset({number})).fixed(number)

    devices = [
        _Device(
            number,
            one.budget - one.fixed,
            one.weights_only,
            needs.parted * (context.layers.get(number, 0) < 2),
            needs.joined * (context.layers.get(number, 0) < 3),
            needs.narrow > 0,
            saved(number) if narrow else 0,
        )
        for number, one in bins.items()
    ]
    choices = [[one] for one in devices] if context.policy.split == "never" else [devices]
    kept = [_best(problem, optional, chosen) for chosen in choices]
    return max(filter(None, kept), key=lambda one: one[0], default=(0, None))[1]


def _best(
    problem: Problem, optional: Sequence[Sequence[Unit]], devices: Sequence[_Device]
) -> tuple[int, list[Run]] | None:
    """Return the most bytes that can stay on devices, and the runs; `None` where they do not fit."""
    best: dict[_State, tuple[int, list[Run]]] = {(0, 0): (0, [])}
    sizes = [0, *accumulate(sum(part.weights for part in of) for of in optional)]
    least = min((part.weights for of in optional for part in of if part.weights), default=1)
    for device in devices:
        after = dict(best)
        for state, (kept, runs) in best.items():
            narrow = (
                _narrow_extensions(problem, optional, device, state[0]) if device.narrow > 0 and not state[1] else ()
            )
            for gained, run in (*_extensions(problem, optional, (sizes, least), device, state), *narrow):
                reached = run.end, len(run.passed)
                if reached not in after or kept + gained > after[reached][0]:
                    after[reached] = kept + gained, [*runs, run]
        best = after
    return best.get((len(problem.sums), 0))


def _extensions(
    problem: Problem,
    optional: Sequence[Sequence[Unit]],
    bytes_of: tuple[Sequence[int], int],
    device: _Device,
    state: _State,
) -> Iterator[tuple[int, Run]]:
    """Yield the runs of one device behind a state, each with the bytes that stay on it.

    `bytes_of` are the prefix sums of what is optional, and the bytes of the smallest part.
    """
    (sizes, least), (begin, count) = bytes_of, state
    before = optional[begin - 1] if count else ()
    received = before[len(before) - count :]
    brought = sum(part.weights for part in received)
    apart = 0 < count < len(before)
    held = problem.sums.weights if device.weights_only else problem.sums.with_cache
    for end in range(begin + 1, len(held)):
        room = device.room - brought - held[end] + held[begin]
        own, last = sizes[end] - sizes[begin], optional[end - 1]
        joined = device.joined if apart else 0
        left = room - joined - (device.joins if count else 0)
        if apart and device.between and end == begin + 1 and left < own:
            # With a part of either layer it takes no more, but for the last matrix of one beside two of the other.
            left = max(left, min(room - joined, own - 1), min(room, 2 * least - 1))
        if left < 0:
            break
        passes = range(len(last) + 1) if own > left >= own - (sizes[end] - sizes[end - 1]) else (0,)
        for passed in passes:
            parts = last[len(last) - passed :]
            stay = own - sum(part.weights for part in parts)
            yield brought + min(stay, left // least * least), Run(device.number, begin, end, received, parts, left)


def _narrow_extensions(
    problem: Problem, optional: Sequence[Sequence[Unit]], device: _Device, begin: int
) -> Iterator[tuple[int, Run]]:
    """Yield the runs of one device with only gates, as `_extensions` does: nothing is received, and nothing passed."""
    held = problem.sums.weights if device.weights_only else problem.sums.with_cache
    gates, smallest = 0, 0
    for end in range(begin + 1, len(held)):
        left = device.room + device.narrow - held[end] + held[begin]
        if left < 0:
            break
        own = [part.weights for part in optional[end - 1] if is_gate(part)]
        gates += sum(own)
        smallest = min([smallest or sum(own), *own])
        stay = min(gates, left // smallest * smallest) if smallest else 0
        yield stay, Run(device.number, begin, end, (), (), left, narrow=True)


def is_gate(part: Unit) -> bool:
    """Whether a part is the matrix of experts that makes their gates."""
    return part.path.endswith("ffn_gate_exps")
