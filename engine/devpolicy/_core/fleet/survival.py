"""Whether a fleet survives: some nodes fail, and everything still has a place.

Owns the property `survives:N`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import comb
from typing import Any

from devpolicy._core.errors import DevPolicyError, Unsatisfiable
from devpolicy._core.fleet.components import nodes_of
from devpolicy._core.fleet.planner import Joint, models_of
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy

MOST_FAILURES = 5_000
"""Sets of nodes that fail that are tried, alike ones once."""


def losses(fleet: Fleet, count: int) -> Iterator[tuple[str, ...]]:
    """Yield the nodes that fail together, of sets that are alike one. Raises `DevPolicyError` for too many."""
    if comb(len(fleet), min(count, len(fleet))) > MOST_FAILURES * 200:
        raise DevPolicyError(f"`survives:{count}` asks of too many sets of nodes: this fleet has {len(fleet)}")
    kinds = {node.name: (node.kind, tuple(node.labels.items())) for node in nodes_of(fleet)}
    seen: set[tuple[Any, ...]] = set()
    for lost in combinations(fleet, min(count, len(fleet))):
        key = tuple(sorted(kinds[node] for node in lost))
        if key not in seen:
            seen.add(key)
            if len(seen) > MOST_FAILURES:
                raise DevPolicyError(f"`survives:{count}` asks of more than {MOST_FAILURES} sets of nodes")
            yield lost


def unsurvived(policy: Policy, models: Mapping[str | None, Any] | None, fleet: Fleet, count: int) -> str:
    """Return why a fleet does not survive that so many nodes fail, empty where it does."""
    for lost in losses(fleet, count):
        try:
            Joint(policy, models_of(models), fleet.without(*lost), None).plan()
        except Unsatisfiable as refused:
            names = " and ".join(f"`{node}`" for node in lost)
            return f"without {names}: {refused.diagnostics[0].message}"
    return ""
