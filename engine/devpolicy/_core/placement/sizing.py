"""How many bytes a model's parts take on a device, for one workload.

Owns the arithmetic of weights, KV cache and activations. The figures for KV cache and activations are
derived: `[memory.TERM] reserve` replaces them where someone has measured better ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._core.language.policy import Workload
from devpolicy._core.model.tree import DTYPE_BITS, FLOATING, ModelTree

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Sizing:
    """Bytes of one model under one workload. Lists run parallel to `tree.modules`."""

    weights: list[int]
    """Parameters that a module holds itself; a tied tensor counts at its first name."""
    buffers: list[int]
    """Buffers that a module holds itself. They stay where the module runs, also when its weights are kept elsewhere."""
    whole: list[int]
    """Parameters that a module holds itself, tied ones in full: what has to be brought in when it runs."""
    kv_cache: list[int]
    activations: int
    """Needed once on each device that executes something."""
    context: int
    dtype: str


def size_model(tree: ModelTree, workload: Workload) -> Sizing:
    """Size `tree` in one pass over its tensors."""
    dtype = workload.dtype
    repeated = {name for group in tree.ties for name in group[1:]}
    count = len(tree.modules)
    weights, buffers, whole = [0] * count, [0] * count, [0] * count
    for position, module in enumerate(tree.modules):
        for tensor in module.tensors:
            size = tensor.bytes_as(dtype)
            full_name = f"{module.path}.{tensor.name}" if repeated and module.path else tensor.name
            counted = 0 if full_name in repeated else size
            if tensor.buffer:
                buffers[position] += counted
            else:
                weights[position] += counted
                whole[position] += size
    context = context_of(tree, workload)
    computed = dtype or _floating_dtype(tree)
    kv_cache = [0] * count
    cached = workload.kv_dtype or computed
    for cache in tree.kv_cache:
        tokens = min(context, cache.window) if cache.window else context
        kv_cache[tree.index[cache.module]] += cache.values * tokens * workload.batch * _itemsize(cache.dtype or cached)
    activations = (
        workload.batch * (tree.activation_elements_per_token * context + tree.logits_elements) * _itemsize(computed)
    )
    return Sizing(weights, buffers, whole, kv_cache, activations, context, computed)


def context_of(tree: ModelTree, workload: Workload) -> int:
    """Return the tokens of a sequence, the answer included: as stated, else the smaller of 4096 and the model's.

    Where only the answer is stated, the sequence holds it, behind a prompt of one token at least.
    """
    if workload.context is not None:
        return workload.context
    return max(min(DEFAULT_CONTEXT, tree.context or DEFAULT_CONTEXT), (workload.new_tokens or 0) + 1)


def _itemsize(dtype: str) -> int:
    return DTYPE_BITS[dtype] // 8


def _floating_dtype(tree: ModelTree) -> str:
    """The dtype that the model computes in: its configuration's, else that of its first floating-point tensor."""
    if tree.dtype in FLOATING:
        return tree.dtype
    for module in tree.modules:
        for tensor in module.tensors:
            if tensor.dtype in FLOATING and not tensor.buffer:
                return tensor.dtype
    return "float32"
