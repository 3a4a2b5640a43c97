"""What a placement is predicted to cost in time.

Owns the one cost model: what a request makes a device read and compute, what has to be transferred, what handing over
between devices takes. Everything is in whole attoseconds, so that a prediction is the same on every machine. It
measures nothing. On an accelerator a unit takes the longer of two times, that of reading its bytes and that of its
matrix products; on a CPU it takes their sum. How fast devices are is in `speeds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.cost.speeds import NEW_TOKENS, DeviceSpeed, Speeds
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import Sizing, sequences_of
from devpolicy._core.model.tree import ModelTree, Module

if TYPE_CHECKING:
    from devpolicy._core.placement.divide import Unit

ATTO = 10**18


def per_byte(rate: int) -> int:
    """Return the attoseconds that one byte takes at `rate` bytes per second."""
    return ATTO // rate


@dataclass(frozen=True, slots=True)
class Times:
    """The attoseconds of a request: on the devices, for transfers, for hand-overs and for calls."""

    executing: int
    transfers: int
    hops: int
    hopping: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.executing + self.transfers + self.hopping


class _Sums(NamedTuple):
    """Sums over the modules before each, over a request."""

    read: list[int]
    """Bytes."""
    operations: list[int]
    further: list[int]
    """Of the operations those beyond the first row that each weight is multiplied with."""
    transferred: list[int]
    """Bytes."""
    tensors: list[int]
    """How many are transferred."""
    called: int
    """How many modules are called, in all."""


class Costs:
    """What the units of one model cost under one workload on one host. Sums are made when they are first asked for.

    With `first_token` a request ends with the first token of its answer: the prompt is computed at once. Otherwise it
    is the answer, token by token, and the prompt is left out.
    """

    def __init__(
        self, tree: ModelTree, workload: Workload, sizing: Sizing, speeds: Speeds, *, first_token: bool = False
    ) -> None:
        self.tree = tree
        self.workload = workload
        self.sizing = sizing
        self.speeds = speeds
        self.first_token = first_token
        self.answer = NEW_TOKENS if workload.new_tokens is None else workload.new_tokens
        self.tokens = 1 if first_token else max(1, self.answer)
        """How often the model runs in a request: once for each token of the answer, and for a prompt alone once."""
        self.batch = sequences_of(tree, workload)
        self.prompt = min(sizing.context, workload.prompt or max(1, sizing.context - self.answer))
        self.device_hop = speeds.crossing_ns * 10**9 * self.tokens
        """Attoseconds of one hand-over between devices over a request: it happens each time that the model runs."""

    @cached_property
    def _sums(self) -> _Sums:
        return self.tree.remembered(("costs", self.workload, self.sizing.context, self.first_token), self._summed)

    def _summed(self) -> _Sums:
        read, operations, further, transferred, tensors, called = [0], [0], [0], [0], [0], 0
        tokens = self.batch * (self.prompt if self.first_token else 1)
        factors = self.tree.remembered("factors", lambda: _factors(self.tree))
        for size, more, (rows, elements, is_head, count), activated in zip(
            self.sizing.full_weights, self.sizing.more_elsewhere, factors, self._activated(), strict=True
        ):
            runs, active, experts = activated
            touched = -(-size * min(tokens, rows) // rows) if rows else size
            touched = -(-touched * min(active * tokens, experts) // experts)
            read.append(touched * runs)
            products = self.batch if is_head else tokens
            operations.append(2 * elements * products * active // experts * runs)
            first_rows = min(active * products, experts)
            further.append(2 * elements * (active * products - first_rows) // experts * runs)
            transferred.append((size + more) * runs)
            tensors.append(count * runs)
            called += runs * active * 2**20 // experts
        prefix = [list(accumulate(one)) for one in (read, operations, further, transferred, tensors)]
        return _Sums(prefix[0], prefix[1], prefix[2], prefix[3], prefix[4], called >> 20)

    def _activated(self) -> list[tuple[int, int, int]]:
        """For each module: how often it runs in a request, and how many experts of how many one token reads."""
        found = [(self.tokens, 1, 1)] * len(self.tree.modules)
        for entry in self.tree.reads:
            start = self.tree.index[entry.module]
            for position in range(start, self.tree.subtree_end[start]):
                runs, active, experts = found[position]
                runs = 1 if entry.per_request else runs
                found[position] = runs, active * entry.experts_per_token, experts * entry.num_experts
        return found

    def read(self, unit: Unit) -> int:
        """Bytes that the device which executes `unit` reads in a request: weights and KV cache."""
        sums = self._sums.read
        # A prompt fills the cache that each token after it reads.
        return sums[unit.end] - sums[unit.start] + (0 if self.first_token else unit.kv_cache * self.tokens)

    def time(self, unit: Unit, speed: DeviceSpeed) -> int:
        """Attoseconds of a request in which a device executes `unit`.

        An accelerator reads while it computes, so the longer of both counts. A CPU computes with what it has read: the
        speed at which it reads was that of products of one row, and those of each further row come to it.
        """
        reading = self.read(unit) * per_byte(speed.bandwidth)
        sums = self._sums.operations if speed.overlaps else self._sums.further
        computing = (sums[unit.end] - sums[unit.start]) * ATTO // speed.operations
        return max(reading, computing) if speed.overlaps else reading + computing

    def transferred_bytes(self, unit: Unit) -> int:
        """Bytes that are brought in for `unit` in a request while it is offloaded."""
        sums = self._sums.transferred
        return sums[unit.end] - sums[unit.start]

    def transfer_time(self, unit: Unit, place: str, *, link: bool) -> int:
        """Attoseconds of a request in which `unit` is brought in from `place`; over the `link` to an accelerator."""
        each = (per_byte(self.speeds.link) if link else 0) + (per_byte(self.speeds.disk) if place == "disk" else 0)
        tensors = self._sums.tensors
        calls = (tensors[unit.end] - tensors[unit.start]) * self.speeds.onload_ns * 10**9
        return self.transferred_bytes(unit) * each + calls

    def times(
        self,
        units: Sequence[Unit],
        runs_on: Sequence[int],
        offloaded: Mapping[int, str],
        speeds: Sequence[DeviceSpeed],
        *,
        link: bool,
    ) -> Times:
        """Return the times of a request.

        `runs_on` numbers the device of each unit, `offloaded` names the place of those that are stored elsewhere, and
        `speeds` are those of the devices.
        """
        executing = transfers = hops = 0
        before: int | None = None
        for at, unit in enumerate(units):
            device = runs_on[at]
            executing += self.time(unit, speeds[device])
            if at in offloaded:
                transfers += self.transfer_time(unit, offloaded[at], link=link)
            # What holds no weights and no cache (tables of positions) is computed once, wherever it is in the order.
            if self.read(unit):
                hops += before is not None and before != device
                before = device
        return Times(executing, transfers, hops, hops * self.device_hop)

    def calling(self, times: Times, *, accelerated: bool) -> int:
        """Attoseconds that calling the modules adds: an accelerator computes while the next ones are called."""
        calls = self._sums.called * self.speeds.call_ns * 10**9
        return max(0, calls - times.executing) if accelerated else calls


def _is_table(module: Module) -> bool:
    """Whether a module is a table of embeddings, of which rows are read and nothing is multiplied."""
    return module.class_name.endswith("Embedding") and len(module.tensors) == 1 and len(module.tensors[0].shape) == 2


def _factors(tree: ModelTree) -> list[tuple[int, int, bool, int]]:
    """For each module: the rows of a table, 0 for all else; the elements by which it multiplies; whether it is a head;
    how many parameters it has.

    A head's products are computed for the last token of a prompt alone, as logits are.
    """
    found: list[tuple[int, int, bool, int]] = []
    logits = tree.logits_elements if tree.kv_cache else 0
    for module in tree.modules:
        table = _is_table(module)
        parameters = [tensor for tensor in module.tensors if not tensor.buffer]
        matrices = (tensor for tensor in parameters if len(tensor.shape) > 1)
        is_head = bool(logits) and any(tensor.shape[:1] == (logits,) for tensor in module.tensors)
        rows = module.tensors[0].shape[0] if table else 0
        elements = 0 if table else sum(tensor.elements for tensor in matrices)
        found.append((rows, elements, is_head, len(parameters)))
    return found
