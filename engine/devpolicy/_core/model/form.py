"""What a model is held as, or why it is not: the values.

Owns both forms, and the two figures that a refusal gives of a quantised checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devpolicy._core.loading.quantization import Package
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.model.packing import packed_tree
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.sizes import format_size

_EVERYWHERE = frozenset({"cpu", "disk"})


@dataclass(frozen=True, slots=True)
class Held:
    """A model as it is held."""

    tree: ModelTree
    arguments: Mapping[str, Any] | None = None
    """The configuration that loading is handed; `None` where it is handed none."""
    arguments_beside: Mapping[str, Any] = field(default_factory=dict)
    """What it has besides where a part is kept elsewhere."""
    beside: frozenset[str] = _EVERYWHERE
    """Where weights may be kept beside accelerators."""
    because: str = ""
    """Why not elsewhere."""
    scheme: str = "none"
    """What the weights are held as: a name of `SCHEMES`, or `"none"`."""
    dequantized: str = ""
    """Why a quantised checkpoint is held dequantised; empty where it is not."""
    assumed: tuple[Package, ...] = ()
    """What must be installed, and is not recorded of the host."""
    skips_elsewhere: bool = False
    """Whether the library leaves each module that the map keeps elsewhere, and takes the map's keys for a list."""
    left: int = 0
    """Bytes of experts that are held as they are, because the scheme converts linear modules alone."""
    several: bool = True
    """Whether it may be divided over accelerators."""
    instead: Held | None = None
    """What it is held as where it is divided, or kept elsewhere in part; `None` where that changes nothing."""


@dataclass(frozen=True, slots=True)
class NotHeld:
    """Why a model cannot be held so."""

    reason: str
    notes: tuple[str, ...] = field(default=())
    by_host: bool = False
    """Whether another host may hold it."""
    help: str = ""
    """The way out, where it is one for this checkpoint."""
    planned: bool = True
    """Whether it is the consumer that refuses; else no plan is made of what it may load."""


def both_figures(tree: ModelTree, dtype: str | None = None) -> tuple[str, ...]:
    """Return what a quantised checkpoint takes as it is stored, and dequantised, as a note."""
    quantization = tree.quantization
    stored = None if quantization is None else quantization.stored
    if tree.incomplete_reason is not None:
        size = format_size(tree.bytes_as() if stored is None else stored)
        return (f"it takes {size} as stored; dequantised it is not known: {tree.incomplete_reason}",)
    full = f"{format_size(tree.bytes_as(dtype))} dequantised to {dtype or tree.default_dtype or 'float32'}"
    if stored is None and quantization is not None and quantization.scheme:
        scheme = SCHEMES[quantization.scheme]
        if scheme.packs_experts:
            scheme = replace(scheme, experts=True)
        packed = packed_tree(tree, scheme, dict(quantization.settings), "", dtype)
        stored = None if packed is None else packed.bytes_as(dtype)
    return (f"it would take {full}" if stored is None else f"it takes {format_size(stored)} as stored, {full}",)
