"""The parts of a device's budget, as every view draws and names them.

Owns their order and their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.placement.ledger import Budget

LABELS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "activations": "activations",
    "streaming": "streaming",
    "loading": "loading",
    "used_by_others": "others",
    "headroom": "headroom",
    "free": "free",
}

Sizes = Mapping[str, int]
"""Bytes of each part of a device's budget, as they are drawn from left to right."""


def sizes_of(budget: Budget) -> dict[str, int]:
    """Return the parts of a budget, in bytes."""
    return {part: max(0, getattr(budget, part)) for part in LABELS}
