"""How many tokens may fit beside a model that was planned: a guess, for the search to begin at.

Owns the estimate, by which nothing is decided, and the sum that no plan can be below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import activation_bytes, kv_caches
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.search import Contexts


@dataclass(frozen=True)
class Filling:
    """Devices that are filled with the units of a plan, in order, under other numbers of tokens."""

    plan: Plan
    tree: ModelTree
    workload: Workload
    rooms: Sequence[int]
    """The bytes that each device has for weights, KV cache and activations."""
    alone: int = 0
    """Those of the device that holds the plan, where it is one: it also holds what loading takes."""

    @cached_property
    def streams(self) -> bool:
        """Whether units are kept elsewhere: then nothing is known of other numbers of tokens."""
        return any(unit.device != unit.runs_on for unit in self.plan.placements.values())

    @cached_property
    def _run(self) -> ModelTree:
        return self.tree.with_attention(self.plan.loading.attention)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {path: at for at, path in enumerate(self.plan.placements)}

    def needs(self, tokens: int) -> int:
        """Return the bytes of all units on one device: on several it is no less."""
        asked = replace(self.workload, context=tokens)
        weights = sum(unit.bytes for unit in self.plan.placements.values())
        return weights + sum(size for _, size in kv_caches(self.tree, asked)) + activation_bytes(self._run, asked)

    def holds(self, tokens: int) -> bool | None:
        """Whether units find room: the one device of the plan holds them, or all hold less; `None` where neither is."""
        need = self.needs(tokens)
        if need <= self.alone:
            return True
        return False if need > sum(max(0, room) for room in self.rooms) else None

    def fits(self, tokens: int) -> bool:
        """Whether the units fit one behind the other, each device filled before the next."""
        asked = replace(self.workload, context=tokens)
        sizes = [unit.bytes for unit in self.plan.placements.values()]
        for module, size in kv_caches(self.tree, asked):
            path = module
            while path and path not in self._position:
                path = path.rpartition(".")[0]
            sizes[self._position.get(path, 0)] += size
        activations = activation_bytes(self._run, asked)
        left = iter(self.rooms)
        room = next(left, 0) - activations
        for size in sizes:
            while size > room:
                following = next(left, None)
                if following is None:
                    return False
                room = following - activations
            room -= size
        return True

    def most(self, contexts: Contexts) -> int | None:
        """Return the number of the most tokens that fit so; `None` where units are kept elsewhere."""
        if self.streams:
            return None
        low, high = 0, len(contexts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(contexts[middle]) else (low, middle)
        return low
