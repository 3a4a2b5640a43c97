"""How many scalars a model holds at once while it runs, by its configuration and its modules.

Owns the formulas, which are estimates from above: each counts what the code of Transformers has at the widest point of
one stage, and dry runs of the catalogue hold them. What one token adds, what each pair of tokens adds where attention
builds a matrix, and what a sequence needs whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from devpolicy._core.model.caches import values_of
from devpolicy._core.model.config_keys import Config, number, size
from devpolicy._core.model.tree import Beside, Module

_ROWS = 6
"""Rows of the hidden size in a block: its input and what it was made of, the residual, the norm and its own copies."""
_FUSED = (".gate_up_proj", ".Wi", ".dense_h_to_4h")
"""Paths of modules that are gate and up in one."""
_DENSE = frozenset(("Llama4TextExperts",))
"""Classes of experts of which each computes every token."""
_PATCHES = 1024
"""Of an image, where a model takes any size."""
_IN_STEPS = frozenset(("NewGELUActivation", "FastGELUActivation", "QuickGELUActivation"))
"""Classes of activation functions that are computed from several tensors."""


def per_token(text: Config, modules: Sequence[Module]) -> int:
    """Return the scalars that each token of a language model adds, with fused attention; 0 where they are unknown."""
    hidden = size(text, "hidden")
    if hidden is None:
        return 0
    return max(_attention(text, hidden), _feed_forward(text, hidden, modules), _mixture(text, hidden, modules))


def beside(config: Config, text: Config, modules: Sequence[Module], *, windows: bool) -> Beside:
    """Return what does not grow with the tokens; `windows`: whether a layer attends to some tokens only."""
    return Beside(
        pair=2 if windows else 0,  # its mask, and that in the model's dtype
        sequence=max(_encoders(config), default=0),
        decoded=_gathered(text, modules),
    )


def _attention(text: Config, hidden: int) -> int:
    """Queries, keys and values, and their copies while positions are rotated into them."""
    heads = size(text, "heads") or 1
    if number(text, "kv_lora_rank") is not None:  # keys and values are made from the latent ones, for every head
        widths = [number(text, key) or 0 for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
        return 3 * hidden + 3 * heads * sum(widths)
    queries = heads * (size(text, "head_dim") or hidden // heads)
    return 3 * hidden + 5 * queries + 4 * values_of(text)


def _feed_forward(text: Config, hidden: int, modules: Sequence[Module]) -> int:
    """Gate, up and their product; one more where gate and up are one tensor, or the function takes several steps."""
    inner = size(text, "inner") or 4 * hidden
    wide = any(module.path.endswith(_FUSED) or module.class_name in _IN_STEPS for module in modules)
    return _ROWS * hidden + (4 if wide else 3) * inner


def _mixture(text: Config, hidden: int, modules: Sequence[Module]) -> int:
    """What each of a token's experts has of its own: its input, gate and up and what becomes of them, its output."""
    used = size(text, "experts")
    if used is None or not _experts(modules):
        return 0
    inner = number(text, "moe_intermediate_size") or size(text, "inner") or 4 * hidden
    if _experts(modules)[0].class_name in _DENSE:
        used = size(text, "all_experts") or used
    biased = any(tensor.name.endswith("_bias") for module in _experts(modules) for tensor in module.tensors)
    return _ROWS * hidden + used * max((10 if biased else 4) * inner + hidden, 6 * hidden)


def _gathered(text: Config, modules: Sequence[Module]) -> int:
    """Return the scalars of the experts that one token uses, in the layer where they are largest."""
    used, experts = size(text, "experts") or 0, size(text, "all_experts")
    largest = max((sum(prod(one.shape) for one in module.tensors) for module in _experts(modules)), default=0)
    return largest * used // experts if experts else 0


def _experts(modules: Sequence[Module]) -> list[Module]:
    return [module for module in modules if module.path.rpartition(".")[2] == "experts" and module.tensors]


def _encoders(config: Config) -> Iterator[int]:
    """Yield what an encoder of images or sound holds for one input."""
    for part in (config, *(one for one in config.values() if isinstance(one, Mapping))):
        hidden = size(part, "hidden")
        if hidden is None:
            continue
        row = _ROWS * hidden + 3 * (number(part, "encoder_ffn_dim") or size(part, "inner") or 4 * hidden)
        patch, image = number(part, "patch_size"), number(part, "image_size")
        if patch is not None:
            yield row * ((image // patch) ** 2 + 1 if image else _PATCHES)
        elif frames := number(part, "max_source_positions"):
            yield row * frames
