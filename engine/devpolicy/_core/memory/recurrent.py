"""What engines keep of recurrent layers: several states for each sequence, in slots or in pages.

Owns the arithmetic, which is that of vLLM 0.33 and SGLang 0.5 by their sources. How many states each keeps is in
`Abilities`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from dataclasses import replace

from devpolicy._core.abilities import Abilities
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import compute_dtype, context_of, sequences_of
from devpolicy._core.model.tree import DTYPE_BITS, KVCache, ModelTree

_STEP = 128
"""Tokens in whose steps vLLM enlarges pages at most: those of its kernels for latent attention."""


def with_states(tree: ModelTree, abilities: Abilities, workload: Workload) -> ModelTree:
    """Return a model with what an engine keeps of its recurrent layers for a sequence.

    In vLLM, all pages are as large as the largest state, and those of keys and values hold as many tokens. A sequence
    fills the last one in part, and one for all sequences is held back. Without attention there are no pages.
    """
    recurrent = recurrent_modules(tree)
    if not recurrent:
        return tree
    states = _bytes([cache for cache in tree.kv_cache if cache.module in recurrent], compute_dtype(tree, workload))
    others = [cache for cache in tree.kv_cache if cache.module not in recurrent]
    growing = [cache for cache in others if cache.window != 1]
    attention = _bytes(growing, workload.kv_dtype or compute_dtype(tree, workload))
    if abilities.state_pages and not attention:
        return tree
    beside: list[KVCache] = []
    if abilities.state_pages:
        tokens = _STEP * -(-max(states.values()) // (_STEP * min(attention.values())))
        page = tokens * max(attention.values())
        states, context = dict.fromkeys(states, page), context_of(tree, workload)
        held_back = -(-page // sequences_of(tree, workload))
        for module, size in attention.items():
            beside.append(_state(module, (-context % tokens) * size + held_back))
    kept = (_state(module, abilities.states * size) for module, size in states.items())
    return replace(tree, kv_cache=(*others, *kept, *beside))


_LINEAR = re.compile(r"lightning|linear|delta|gated|recurrent|rwkv")


def recurrent_modules(tree: ModelTree) -> Set[str]:
    """Return the modules that keep a state of the text so far: not what attention keeps of an image or an encoder."""
    growing = {cache.module for cache in tree.kv_cache if cache.window != 1}
    found = {cache.module for cache in tree.kv_cache if cache.window == 1 and cache.values} - growing
    classes = {path: tree.modules[tree.index[path]].class_name.lower() for path in found}
    return {path for path, name in classes.items() if "attention" not in name or _LINEAR.search(name)}


def _bytes(caches: Iterable[KVCache], dtype: str) -> dict[str, int]:
    """Return the bytes that each module keeps, of a state or of a token."""
    found: dict[str, int] = {}
    for cache in caches:
        found[cache.module] = found.get(cache.module, 0) + cache.values * DTYPE_BITS[cache.dtype or dtype] // 8
    return found


def _state(module: str, size: int) -> KVCache:
    return KVCache(module, -(-size // 4), 1, "float32")
