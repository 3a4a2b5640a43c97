"""What a placement is predicted to cost in time.

Owns the one cost model: what one token of output makes a device read, what has to be transferred, what handing over
between devices takes. Everything is in whole attoseconds, so that a prediction is the same on every machine. It
measures nothing: decoding is taken to be bound by memory, with attention that reads its cache once. How fast devices
are is in `speeds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from devpolicy._core.cost.prediction import Prediction
from devpolicy._core.cost.speeds import NEW_TOKENS, Speeds
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import Sizing, sequences_of
from devpolicy._core.model.tree import ModelTree, Module

if TYPE_CHECKING:
    from devpolicy._core.placement.divide import Unit

ATTO = 10**18


def per_byte(rate: int) -> int:
    """Return the attoseconds that one byte takes at `rate` bytes per second."""
    return ATTO // rate


class Costs:
    """What the units of one model cost under one workload on one host. Sums are made when they are first asked for."""

    def __init__(self, tree: ModelTree, workload: Workload, sizing: Sizing, speeds: Speeds) -> None:
        self.tree = tree
        self.workload = workload
        self.batch = sequences_of(tree, workload)
        self.answer = NEW_TOKENS if workload.new_tokens is None else workload.new_tokens
        self.tokens = max(1, self.answer)
        """How often the model runs in a request: once for each token of the answer, and for a prompt alone once."""
        self.sizing = sizing
        self.speeds = speeds
        self.device_hop = speeds.crossing_ns * 10**9 * self.tokens
        """Attoseconds of one hand-over between devices over a request: it happens for each token."""

    @cached_property
    def _sums(self) -> tuple[list[int], list[int]]:
        """Prefix sums over modules of bytes over a request: what is read, and what is transferred if offloaded."""
        return self.tree.remembered(("bytes of a request", self.workload), self._summed)

    def _summed(self) -> tuple[list[int], list[int]]:
        runs, active, experts = self._activated()
        read, transferred = [], []
        for position, module in enumerate(self.tree.modules):
            size = self.sizing.full_weights[position]
            touched = _rows(module, self.batch, size)
            touched = -(-touched * min(active[position] * self.batch, experts[position]) // experts[position])
            read.append(touched * runs[position])
            transferred.append(size * runs[position])
        return [0, *accumulate(read)], [0, *accumulate(transferred)]

    def _activated(self) -> tuple[list[int], list[int], list[int]]:
        """For each module: how often it runs in a request, and how many experts of how many one token reads."""
        count = len(self.tree.modules)
        runs, active, experts = [self.tokens] * count, [1] * count, [1] * count
        for entry in self.tree.reads:
            start = self.tree.index[entry.module]
            for position in range(start, self.tree.subtree_end[start]):
                active[position] *= entry.experts_per_token
                experts[position] *= entry.num_experts
                if entry.per_request:
                    runs[position] = 1
        return runs, active, experts

    def read(self, unit: Unit) -> int:
        """Bytes that the device which executes `unit` reads in a request: weights and KV cache."""
        sums = self._sums[0]
        return sums[unit.end] - sums[unit.start] + unit.kv_cache * self.tokens

    def transferred_bytes(self, unit: Unit) -> int:
        """Bytes that are brought in for `unit` in a request while it is offloaded."""
        sums = self._sums[1]
        return sums[unit.end] - sums[unit.start]

    def transfer_time(self, unit: Unit, place: str, *, link: bool) -> int:
        """Attoseconds of a request in which `unit` is brought in from `place`; over the `link` to an accelerator."""
        each = (per_byte(self.speeds.link) if link else 0) + (per_byte(self.speeds.disk) if place == "disk" else 0)
        return self.transferred_bytes(unit) * each

    def times(
        self,
        units: Sequence[Unit],
        runs_on: Sequence[int],
        offloaded: Mapping[int, str],
        rates: Sequence[int],
        *,
        link: bool,
    ) -> tuple[int, int, int]:
        """Return the attoseconds of a request for reading and for transfers, and how many hand-overs there are.

        `runs_on` numbers the device of each unit, `offloaded` names the place of those that are stored elsewhere, and
        `rates` are the attoseconds that one byte takes on each device.
        """
        reading = transfers = hops = 0
        before: int | None = None
        for at, unit in enumerate(units):
            device = runs_on[at]
            read = self.read(unit)
            reading += read * rates[device]
            if at in offloaded:
                transfers += self.transfer_time(unit, offloaded[at], link=link)
            # What holds no weights and no cache (tables of positions) is computed once, wherever it is in the order.
            if read:
                hops += before is not None and before != device
                before = device
        return reading, transfers, hops

    def prediction(self, times: tuple[int, int, int], devices: Mapping[str, int], places: set[str]) -> Prediction:
        """Return a prediction for one token, with the constants behind it: bytes per second of each of `devices`."""
        reading, transfers, hops = times
        each = 10**9 * self.tokens
        assumes = dict(devices)
        if places:
            assumes["link"] = self.speeds.link
        if "disk" in places:
            assumes["disk"] = self.speeds.disk
        if hops:
            assumes["crossing_ns"] = self.speeds.crossing_ns
        assumes["new_tokens"] = self.answer
        return Prediction(
            reading // each, transfers // each, hops, hops * self.device_hop // each, tuple(assumes.items())
        )


def _rows(module: Module, batch: int, size: int) -> int:
    """Return the bytes of a module's weights that are read at most: of a table of embeddings one row a sequence."""
    if module.class_name.endswith("Embedding") and len(module.tensors) == 1 and len(module.tensors[0].shape) == 2:
        rows = module.tensors[0].shape[0]
        return -(-size * min(batch, rows) // rows) if rows else size
    return size
