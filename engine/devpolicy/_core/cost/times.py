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
from itertools import accumulate, compress, pairwise
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.cost.speeds import NEW_TOKENS, DeviceSpeed, Speeds
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import Sizing, sequences_of
from devpolicy._core.model.tree import ModelTree

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


class _Activated(NamedTuple):
    """How much of a module a token uses."""

    per_request: bool = False
    """It runs once for a request, and not for each token."""
    parts: int = 1
    of: int = 1


class _Kind(NamedTuple):
    """What modules that cost alike hold, and what of it is used. Most modules of a model are like others."""

    size: int
    """Bytes of the parameters, tied ones in full."""
    more_elsewhere: int
    rows: int
    """Of a table of embeddings, of which rows are read and nothing is multiplied; 0 for all else."""
    elements: int
    """By which it multiplies."""
    is_head: bool
    """Its products are computed for the last token of a prompt alone, as logits are."""
    tensors: int
    """How many parameters it has."""
    activated: _Activated


class _Row(NamedTuple):
    """What one module adds to a request."""

    read: int
    """Bytes."""
    operations: int
    further: int
    """Of the operations those beyond the first row that each weight is multiplied with."""
    transferred: int
    """Bytes."""
    tensors: int
    """How many are transferred."""
    called: int
    """How often it is called, in parts of 2**20: of the experts of a mixture a few are."""


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
        self._known: dict[tuple[int, DeviceSpeed | None], tuple[Sequence[Unit], list[int]]] = {}
        self.answer = NEW_TOKENS if workload.new_tokens is None else workload.new_tokens
        self.tokens = 1 if first_token else max(1, self.answer)
        """How often the model runs in a request: once for each token of the answer, and for a prompt alone once."""
        self.batch = sequences_of(tree, workload)
        self.prompt = min(sizing.context, workload.prompt or max(1, sizing.context - self.answer))
        self.device_hop = speeds.crossing_ns * 10**9 * self.tokens
        """Attoseconds of one hand-over between devices over a request: it happens each time that the model runs."""

    @cached_property
    def _rows(self) -> tuple[list[_Row], list[int]]:
        """What a module of each kind adds, and the kind of each module by its number."""
        what = "kinds of modules", self.workload.dtype
        kinds, numbers = self.tree.remembered(what, lambda: _kinds(self.tree, self.sizing))
        return [self._row(kind) for kind in kinds], numbers

    def _row(self, kind: _Kind) -> _Row:
        size, rows, (per_request, parts, of) = kind.size, kind.rows, kind.activated
        tokens = self.batch * (self.prompt if self.first_token else 1)
        runs = 1 if per_request else self.tokens
        touched = -(-size * min(tokens, rows) // rows) if rows else size
        touched = -(-touched * min(parts * tokens, of) // of)
        products = self.batch if kind.is_head else tokens
        first_rows = min(parts * products, of)
        return _Row(
            read=touched * runs,
            operations=2 * kind.elements * products * parts // of * runs,
            further=2 * kind.elements * (parts * products - first_rows) // of * runs,
            transferred=(size + kind.more_elsewhere) * runs,
            tensors=kind.tensors * runs,
            called=runs * parts * 2**20 // of,
        )

    def _sums(self, column: str) -> list[int]:
        """Return the sums of a column of the rows over the modules before each, with that of all behind them."""
        what = "costs", column, self.workload, self.sizing.context, self.first_token
        return self.tree.remembered(what, lambda: self._summed(column))

    def _summed(self, column: str) -> list[int]:
        rows, numbers = self._rows
        each = [getattr(row, column) for row in rows]
        return [0, *accumulate(map(each.__getitem__, numbers))]

    @cached_property
    def _read(self) -> list[int]:
        return self._sums("read")

    @cached_property
    def _operations(self) -> list[int]:
        return self._sums("operations")

    @cached_property
    def _further(self) -> list[int]:
        return self._sums("further")

    @cached_property
    def _transferred(self) -> list[int]:
        return self._sums("transferred")

    @cached_property
    def _tensors(self) -> list[int]:
        return self._sums("tensors")

    def read(self, unit: Unit) -> int:
        """Bytes that the device which executes `unit` reads in a request: weights and KV cache."""
        sums = self._read
        # A prompt fills the cache that each token after it reads.
        return sums[unit.end] - sums[unit.start] + (0 if self.first_token else unit.kv_cache * self.tokens)

    def time(self, unit: Unit, speed: DeviceSpeed) -> int:
        """Attoseconds of a request in which a device executes `unit`.

        An accelerator reads while it computes, so the longer of both counts. A CPU computes with what it has read: the
        speed at which it reads was that of products of one row, and those of each further row come to it.
        """
        reading = self.read(unit) * per_byte(speed.bandwidth)
        sums = self._operations if speed.overlaps else self._further
        computing = (sums[unit.end] - sums[unit.start]) * ATTO // speed.operations
        return max(reading, computing) if speed.overlaps else reading + computing

    def each(self, units: Sequence[Unit], speed: DeviceSpeed | None = None) -> list[int]:
        """Return the `time` of each unit, without a speed what is `read`; kept, as attempts ask for it again."""
        what = id(units), speed
        if what not in self._known:
            of = [self.read(unit) if speed is None else self.time(unit, speed) for unit in units]
            self._known[what] = units, of
        return self._known[what][1]

    def transferred_bytes(self, unit: Unit) -> int:
        """Bytes that are brought in for `unit` in a request while it is offloaded."""
        sums = self._transferred
        return sums[unit.end] - sums[unit.start]

    def transfer_time(self, unit: Unit, place: str, *, link: bool) -> int:
        """Attoseconds of a request in which `unit` is brought in from `place`; over the `link` to an accelerator."""
        each = (per_byte(self.speeds.link) if link else 0) + (per_byte(self.speeds.disk) if place == "disk" else 0)
        tensors = self._tensors
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
        each = {device: self.each(units, speeds[device]) for device in set(runs_on)}
        executing = sum(each[device][at] for at, device in enumerate(runs_on))
        transfers = sum(self.transfer_time(units[at], place, link=link) for at, place in offloaded.items())
        # What holds no weights and no cache (tables of positions) is computed once, wherever it is in the order.
        running = compress(runs_on, self.each(units))
        hops = sum(one != other for one, other in pairwise(running))
        return Times(executing, transfers, hops, hops * self.device_hop)

    def calling(self, times: Times, *, accelerated: bool) -> int:
        """Attoseconds that calling the modules adds: an accelerator computes while the next ones are called."""
        if not self.speeds.call_ns:
            return 0
        calls = (self._sums("called")[-1] >> 20) * self.speeds.call_ns * 10**9
        return max(0, calls - times.executing) if accelerated else calls


def _kinds(tree: ModelTree, sizing: Sizing) -> tuple[list[_Kind], list[int]]:
    """Return the kinds of modules, and of which one each module is. The readers give equal modules one tuple."""
    keys = [
        (id(module.tensors), module.class_name, activated)
        for module, activated in zip(tree.modules, _activated(tree), strict=True)
    ]
    last = {key: position for position, key in enumerate(keys)}
    numbers = {key: number for number, key in enumerate(last)}
    kinds = [_kind(tree, sizing, position, key[2]) for key, position in last.items()]
    return kinds, [numbers[key] for key in keys]


def _kind(tree: ModelTree, sizing: Sizing, position: int, activated: _Activated) -> _Kind:
    module, logits = tree.modules[position], tree.logits_elements if tree.kv_cache else 0
    table = module.class_name.endswith("Embedding") and len(module.tensors) == 1 and len(module.tensors[0].shape) == 2
    parameters = [tensor for tensor in module.tensors if not tensor.buffer]
    matrices = (tensor for tensor in parameters if len(tensor.shape) > 1)
    return _Kind(
        size=sizing.full_weights[position],
        more_elsewhere=sizing.more_elsewhere[position],
        rows=module.tensors[0].shape[0] if table else 0,
        elements=0 if table else sum(tensor.elements for tensor in matrices),
        is_head=bool(logits) and any(tensor.shape[:1] == (logits,) for tensor in module.tensors),
        tensors=len(parameters),
        activated=activated,
    )


def _activated(tree: ModelTree) -> list[_Activated]:
    """For each module: whether it runs once for a request, and how many experts of how many one token reads."""
    found = [_Activated()] * len(tree.modules)
    for entry in tree.reads:
        start = tree.index[entry.module]
        for position in range(start, tree.subtree_end[start]):
            per_request, parts, of = found[position]
            more = parts * entry.experts_per_token, of * entry.num_experts
            found[position] = _Activated(per_request or entry.per_request, *more)
    return found
