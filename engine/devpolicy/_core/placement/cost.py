"""What a plan is predicted to cost in time.

Owns the one cost model: what one token of output makes a device read, what has to be brought in, what handing over
between devices takes. Everything is in whole attoseconds, so that a prediction is the same on every machine. It
measures nothing: decoding is taken to be bound by memory, with attention that reads its cache once. How fast devices
are is in `speeds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from devpolicy._core.language.policy import Workload
from devpolicy._core.model.tree import ModelTree, Module
from devpolicy._core.placement.prediction import Prediction
from devpolicy._core.placement.sizing import Sizing
from devpolicy._core.placement.speeds import NEW_TOKENS, Speeds
from devpolicy._core.placement.units import Unit

if TYPE_CHECKING:
    from devpolicy._core.placement.rules import World
    from devpolicy._core.placement.search import Solution

ATTO = 10**18


def per_byte(rate: int) -> int:
    """Return the attoseconds that one byte takes at `rate` bytes per second."""
    return ATTO // rate


class Costs:
    """What the units of one model cost under one workload on one host. Sums are made when they are first asked for."""

    def __init__(self, tree: ModelTree, workload: Workload, sizing: Sizing, speeds: Speeds) -> None:
        self.tree = tree
        self.batch = workload.batch
        self.answer = NEW_TOKENS if workload.new_tokens is None else workload.new_tokens
        self.tokens = max(1, self.answer)
        """How often the model runs in a request: once for each token of the answer, and for a prompt alone once."""
        self.sizing = sizing
        self.speeds = speeds
        self.crossing = speeds.crossing_ns * 10**9 * self.tokens
        """Attoseconds of one crossing over a request: it happens for each token."""

    @cached_property
    def _sums(self) -> tuple[list[int], list[int]]:
        """Prefix sums over modules of bytes over a request: what is read, and what is brought in if kept elsewhere."""
        runs, parts, of = self._often()
        read, brought = [], []
        for position, module in enumerate(self.tree.modules):
            whole = self.sizing.whole[position]
            if not whole:
                read.append(0)
                brought.append(0)
                continue
            touched = _rows(module, self.batch, whole)
            touched = -(-touched * min(parts[position] * self.batch, of[position]) // of[position])
            read.append(touched * runs[position])
            brought.append(whole * runs[position])
        return [0, *accumulate(read)], [0, *accumulate(brought)]

    def _often(self) -> tuple[list[int], list[int], list[int]]:
        """For each module: how often it runs in a request, and how many parts of how many one token reads."""
        count = len(self.tree.modules)
        runs, parts, of = [self.tokens] * count, [1] * count, [1] * count
        for entry in self.tree.reads:
            start = self.tree.index[entry.module]
            for position in range(start, self.tree.subtree_end[start]):
                parts[position] *= entry.parts
                of[position] *= entry.of
                if entry.once:
                    runs[position] = 1
        return runs, parts, of

    def read(self, unit: Unit) -> int:
        """Bytes that the device which runs `unit` reads in a request: weights and KV cache."""
        sums = self._sums[0]
        return sums[unit.end] - sums[unit.start] + unit.kv_cache * self.tokens

    def brought(self, unit: Unit) -> int:
        """Bytes that are brought in for `unit` in a request while it is kept elsewhere."""
        sums = self._sums[1]
        return sums[unit.end] - sums[unit.start]

    def streamed(self, unit: Unit, place: str, *, link: bool) -> int:
        """Attoseconds of a request in which `unit` is brought in from `place`; over the `link` to an accelerator."""
        each = (per_byte(self.speeds.link) if link else 0) + (per_byte(self.speeds.disk) if place == "disk" else 0)
        return self.brought(unit) * each


def _rows(module: Module, batch: int, whole: int) -> int:
    """Return the bytes of a module's weights that are read at most: of a table of embeddings one row a sequence."""
    if module.cls.endswith("Embedding") and len(module.tensors) == 1 and len(module.tensors[0].shape) == 2:
        rows = module.tensors[0].shape[0]
        return -(-whole * min(batch, rows) // rows) if rows else whole
    return whole


def time_of(units: Sequence[Unit], solution: Solution, world: World) -> int:
    """Return the predicted attoseconds of a request."""
    return sum(_times(units, solution, world)[:3])


def _times(units: Sequence[Unit], solution: Solution, world: World) -> tuple[int, int, int, int]:
    costs = world.costs
    reading = streaming = crossings = 0
    before: int | None = None
    rates = [per_byte(seat.bandwidth) for seat in world.seats]
    for at, unit in enumerate(units):
        seat = solution.seat[at]
        read = costs.read(unit)
        reading += read * rates[seat]
        if at in solution.kept:
            streaming += costs.streamed(unit, solution.kept[at].place, link=world.link)
        # What holds no weights and no cache (tables of positions) is computed once, whatever its place in the order.
        if read:
            crossings += before is not None and before != seat
            before = seat
    return reading, streaming, crossings * costs.crossing, crossings


def predict(units: Sequence[Unit], solution: Solution, world: World) -> Prediction:
    """Return the prediction for a plan, with the constants that it goes by."""
    reading, streaming, crossing, crossings = _times(units, solution, world)
    costs, each = world.costs, 10**9 * world.costs.tokens
    assumes = {str(world.seats[number]): world.seats[number].bandwidth for number in sorted(set(solution.seat))}
    if solution.kept:
        assumes["link"] = costs.speeds.link
    if any(kept.place == "disk" for kept in solution.kept.values()):
        assumes["disk"] = costs.speeds.disk
    if crossings:
        assumes["crossing_ns"] = costs.speeds.crossing_ns
    assumes["new_tokens"] = costs.answer
    return Prediction(reading // each, streaming // each, crossings, crossing // each, tuple(assumes.items()))
