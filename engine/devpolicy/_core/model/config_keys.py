"""The keys of Transformers configurations: what one thing is called in each of them.

Owns the many names of one size. A configuration is a plain table here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devpolicy._core.loading.value import TEXT_PARTS

Config = Mapping[str, Any]

_NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim", "embed_dim"),
    "heads": (
        "num_attention_heads",
        "n_head",
        "num_heads",
        "n_heads",
        "decoder_attention_heads",
        "attention_heads",
        "num_decoder_attention_heads",
        "decoder_num_attention_heads",
    ),
    "kv_heads": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_kv_heads",
        "multi_query_group_num",
        "decoder_num_key_value_heads",
    ),
    "state": ("state_size", "mamba_d_state", "ssm_state_size"),
    "head_dim": ("head_dim", "d_kv", "kv_channels"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "layers"),
    "decoder_layers": ("num_decoder_layers", "decoder_layers", "decoder_num_hidden_layers"),
    "inner": ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim", "hidden_dim"),
    "experts": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts"),
    "all_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "context": ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length"),
    "decoder_context": ("max_target_positions", "max_decoder_position_embeddings"),
}


def text_part(config: Config) -> Config:
    """Return the part of a multimodal configuration that describes the language model."""
    for _ in range(4):
        inner = next((config[key] for key in TEXT_PARTS if isinstance(config.get(key), Mapping)), None)
        if not inner:
            break
        config = inner
    return config


def number(config: Config, key: str) -> int | None:
    """Return the positive whole number under a key, `None` where there is none."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def size(config: Config, what: str) -> int | None:
    """Return one size, by whichever name a configuration has for it; `None` where it has none."""
    return next((found for key in _NAMES[what] if (found := number(config, key)) is not None), None)


def layer_types(config: Config) -> Sequence[object]:
    """Return the types of a configuration's layers, empty where it has no such list."""
    for key in ("layer_types", "layers_block_type"):
        types = config.get(key)
        if isinstance(types, list | tuple):
            return types
    return ()
