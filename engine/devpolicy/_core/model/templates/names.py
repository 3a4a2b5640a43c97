"""Under which names the checkpoints of a family hold the tensors of its template.

Owns the renamings that Transformers does while it loads: its rules for these families.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from devpolicy._core.model.ranges import join

_EVERYWHERE = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_RENAMINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "mixtral": (
        (r"\.block_sparse_moe\.", ".mlp."),
        (r"\.experts\.\d+\.w[13]\.weight$", ".experts.gate_up_proj"),
        (r"\.experts\.\d+\.w2\.weight$", ".experts.down_proj"),
    ),
    "gemma3": (
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head", "lm_head"),
        (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        (r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
    ),
    "nomic_bert": (
        ("encoder.layers", "layers"),
        ("emb_ln", "embeddings.LayerNorm"),
        ("attn.out_proj", "self_attn.o_proj"),
        ("fc11", "up_proj"),
        ("fc12", "gate_proj"),
        ("fc2", "down_proj"),
        ("norm1", "post_attention_layernorm"),
        ("norm2", "post_mlp_layernorm"),
    ),
}
_EXPERTS = (
    (r"\.mlp\.experts\.\d+\.(gate|up)_proj\.weight$", ".mlp.experts.gate_up_proj"),
    (r"\.mlp\.experts\.\d+\.down_proj\.weight$", ".mlp.experts.down_proj"),
)
_FUSED = ("attn.Wqkv", tuple(f"self_attn.{name}_proj" for name in "qkv"))
_BASES = (
    *("model", "transformer", "bert", "roberta", "mpnet", "distilbert", "nomic_bert", "text_model", "vision_model"),
)
"""What a body is called in the classes that have a head: weights of one are loaded into the other and back."""


def targets(model_type: str, key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the tensors of a template, of these `names`, that a checkpoint's tensor is loaded into."""
    known = names if isinstance(names, set | frozenset | dict) else set(names)
    for pattern, text in (*_EVERYWHERE, *_RENAMINGS.get(model_type, ()), *_EXPERTS):
        key = re.sub(pattern, text, key)
    whole, parts = _FUSED
    options: tuple[str, ...] = (key,)
    if model_type == "nomic_bert" and whole in key:
        options = tuple(key.replace(whole, part) for part in parts)
    found = tuple(next((name for name in _readings(option) if name in known), "") for option in options)
    return found if all(found) else options


def _readings(key: str) -> Iterator[str]:
    """Yield the names that a tensor may have in a class with another head, its own first."""
    yield key
    for base in _BASES:
        yield join(base, key)
        if key.startswith(f"{base}."):
            yield key.removeprefix(f"{base}.")
