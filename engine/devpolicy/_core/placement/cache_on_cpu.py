"""The KV cache of all layers on the CPU, beside layers on accelerators: what a target does with it as a whole.

Owns where its bytes count. While devices are searched for, the units have no cache and the CPU has that much less room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from devpolicy._core.abilities import Target
from devpolicy._core.errors import Diagnostic
from devpolicy._core.memory.budgets import DeviceBudget
from devpolicy._core.placement.apply_rules import Refused
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division
from devpolicy._core.placement.ledger import Budget


def check_cache(target: Target) -> None:
    """Raise `Refused` where a target cannot keep the cache where a policy wants it."""
    if target.abilities.cache != "all-or-nothing":
        message = f"`{target.name}` keeps the KV cache on the devices of its layers"
        raise Refused(Diagnostic("DP416", message, help='leave `workload.kv_offload` out, or plan for `"llama.cpp"`'))


def cache_bytes(division: Division) -> int:
    """Return the bytes of all caches."""
    return sum(unit.kv_cache for unit in division.units)


def without_cache(division: Division) -> Division:
    """Return a division whose units keep no cache."""
    return replace(division, units=tuple(replace(unit, kv_cache=0) for unit in division.units))


def beside_cache(context: PlacementContext, size: int) -> PlacementContext:
    """Return a context whose CPU has room for the cache."""

    def less(one: DeviceBudget) -> DeviceBudget:
        return replace(one, cap=one.cap - size) if str(one) == "cpu" else one

    return replace(context, devices=tuple(map(less, context.devices)), changes=(*context.changes, less))


def with_cache(ledger: Mapping[str, Budget], size: int, context: PlacementContext) -> dict[str, Budget]:
    """Return a ledger with the cache on the CPU, which computes with it."""
    cpu = context.cpu
    there = ledger.get("cpu") or Budget(used_by_others=cpu.used_by_others, headroom=cpu.headroom, cap=cpu.cap)
    return {**ledger, "cpu": replace(there, kv_cache=size, cap=there.cap + size)}
