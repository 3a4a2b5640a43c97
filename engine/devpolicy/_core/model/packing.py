"""The bytes of the weights that a scheme converts.

Owns the tree with these bytes. The formula is the scheme's, and which modules it is for is the matter of `conversion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from devpolicy._core.loading.quantization import Facts, Scheme
from devpolicy._core.model.conversion import converted, is_matrix
from devpolicy._core.model.ranges import join
from devpolicy._core.model.shares import share, weight_of
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree, Module, Tensor


def packed_tree(
    tree: ModelTree,
    scheme: Scheme,
    settings: Mapping[str, Any],
    kind: str,
    dtype: str | None,
    takes: int = 0,
    *,
    whole: bool = False,
    facts: Facts | None = None,
) -> ModelTree | None:
    """Return a tree with the bytes of its converted weights, `None` where nothing is converted.

    `takes` are the bytes for each element that making them takes for a moment; `whole` are those that are left as they
    are where they are kept elsewhere. `facts` say over how many devices each weight is divided.
    """
    paths = converted(tree, scheme, settings)
    if not paths:
        return None
    made: dict[tuple[str, int, str], tuple[Tensor, ...]] = {}
    shared = facts is not None and facts.parts > 1

    def tensors_of(module: Module) -> tuple[Tensor, ...]:
        # The readers give equal modules one tuple; how one is divided is in its name.
        key = module.class_name, id(module.tensors), module.path.rpartition(".")[2] if shared else ""
        if key not in made:
            packed = (_tensor(tensor, module, scheme, settings, kind, dtype, facts) for tensor in module.tensors)
            made[key] = tuple(
                # A `Conv1D` keeps its weight the other way round: a copy is turned first.
                replace(
                    tensor,
                    transient=transient_of(
                        tensor, takes + (2 if takes and module.class_name == "Conv1D" else 0), dtype
                    ),
                    whole_elsewhere=whole,
                )
                if tensor.packed is not None
                else tensor
                for tensor in packed
            )
        return made[key]

    return tree.resized(
        tuple(
            Module(module.path, module.class_name, tensors_of(module), module.in_place)
            if module.path in paths
            else module
            for module in tree.modules
        )
    )


def _tensor(
    tensor: Tensor,
    module: Module,
    scheme: Scheme,
    settings: Mapping[str, Any],
    kind: str,
    dtype: str | None,
    facts: Facts | None,
) -> Tensor:
    """Return a tensor of a converted module."""
    if tensor.name in scheme.float32 and all(settings.get(key) == value for key, value in scheme.float32_when.items()):
        return replace(tensor, dtype="float32", float32_in="any")
    if not is_matrix(tensor):
        return tensor
    weight = weight_of(tensor, module, scheme, DTYPE_BITS[tensor.dtype_as(dtype)] // 8, kind)
    parts = 1 if facts is None else facts.parts
    each = scheme.bytes(weight if facts is None else share(weight, join(module.path, tensor.name), facts), settings)
    return replace(tensor, packed=prod(tensor.shape[:-2]) * each * parts)


def transient_of(tensor: Tensor, each: int, dtype: str | None) -> int:
    """Return the bytes beside a weight while it is converted; `each` was measured in a dtype of two bytes."""
    return tensor.elements * each * DTYPE_BITS[tensor.dtype_as(dtype)] // 16 if len(tensor.shape) > 1 else 0
