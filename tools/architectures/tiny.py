"""Tiny configurations: the defaults of every type of model, with each size made small by the name of its key.

Owns the shrinking. What no rule on names can know is in `exceptions.toml`: keys that are set after it, by dotted path,
under `drop` keys that are left out, under `inputs` what a class is tried with, and under `cache` why it is counted as
more than it may keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tomli

LAYERS = 4
TOKENS = 8
"""Tokens of the inputs."""

Table = dict[str, Any]
_HIDDEN = (
    r"hidden_size|hidden_sizes|d_model|n_embd|embed_dim|hidden_dim|dim|model_dim|decoder_hidden_size"
    r"|word_embed_proj_dim|embedding_size|hidden_dims|output_hidden_size|out_hidden_size|decoder_dim"
    r"|encoder_dim|proj_dim|projection_dim|projector_dim|emb_dim|width|enc_dim|dec_dim|mm_hidden_size"
    r"|text_hidden_size|attention_hidden_size|lru_width|n_embed|encoder_hidden_size|cross_hidden_size"
    r"|d_embed|vision_hidden_size|projection_hidden_size|projection_size|decoder_embed_dim|embed_size"
    r"|local_dim|perceiver_dim|attn_hidden_size|audio_hidden_size|gate_dim"
)
_HEAD = (
    r"qk_rope_head_dim|qk_nope_head_dim|v_head_dim|head_dim|attention_head_dim|d_kv|global_head_dim"
    r"|kv_channels|index_head_dim|linear_key_head_dim|linear_value_head_dim|attention_head_size"
    r"|rope_head_dim|swa_head_dim|swa_v_head_dim|attn_head_dim|head_size|qk_head_dim"
)

_RULES: tuple[tuple[str, int | str], ...] = (
    (rf"^({_HIDDEN})$", 64),
    (r"moe_intermediate_size|expert_ffn_hidden_size|expert_intermediate|moe_inter|expert_dim|shared_expert_inter", 32),
    (r"intermediate|ffn|d_ff|mlp_dim|n_inner|inner_dim|mlp_hidden|ff_dim|feed_forward|dim_feedforward|mlp_size", 128),
    (rf"^({_HEAD})$", 16),
    (r"lora_rank|_lora_dim|lora_r$|_rank$", 16),
    (
        r"num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num|kv_n_heads|kv_heads|num_global_key_value",
        "kv",
    ),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"(mamba_d_head|mamba_head_dim|mamba_headdim)$", 16),
    (r"mamba_d_ssm", 128),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"mamba_d_state|state_size|ssm_state_size|mamba_state", 16),
    (r"(mamba_n_groups|n_groups|mamba_ngroups)$", 1),
    (r"attention_chunk_size", 512),
    (r"chunk_size", 8),
    (r"num_attention_heads|n_head$|n_heads|num_heads|attention_heads|num_attn_heads|index_n_heads", 4),
    (
        r"^(n_routed_experts|num_experts|num_local_experts|moe_num_experts|n_experts|num_routed_experts|moe_n_experts)$",
        8,
    ),
    (r"(num_experts_per_tok|top_k|moe_topk|num_experts_per_token|experts_per_tok|moe_top_k|moe_k)$", 2),
    (r"^(n_group|topk_group|num_expert_group|moe_num_groups)$", 1),
    (
        r"num_hidden_layers|n_layer$|n_layers|num_layers|encoder_layers|decoder_layers|num_blocks|depth$"
        r"|num_decoder_layers|num_encoder_layers|num_block_layers|num_hidden_blocks",
        LAYERS,
    ),
    (r"vocab_size|padded_vocab|codebook_size", 256),
    (
        r"max_position_embeddings|n_positions|max_seq_len|max_source_positions|max_target_positions"
        r"|max_sequence_length|seq_length|max_seqlen",
        512,
    ),
    (r"^(image_size|crop_size)$", 64),
    (r"^patch_size$", 16),
    (r"^rotary_dim$", 8),
    (r"^upsample_groups$", 64),
    (r"^n_ctx$", 512),
    (r"first_k_dense_replace|num_dense_layers", 1),
)
_ABSENT = {
    "head_dim": 16, "num_experts_per_tok": 2, "n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 32,
}  # fmt: skip
"""What stands for a default of `None` that no model can be built with."""
_LEFT_OUT = frozenset(
    ("id2label", "label2id", "architectures", "transformers_version", "_name_or_path", "out_features", "out_indices",
     "stage_names")
)  # fmt: skip
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEAD_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_KEYS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_IDS = re.compile(r"(_token_id|_token_index|_idx|_id)$|token_ids$")


@cache
def exceptions() -> dict[str, Table]:
    """Return the keys that are set for some types."""
    return tomli.loads(Path(__file__).with_name("exceptions.toml").read_text(encoding="utf-8"))


def tiny(model_type: str) -> Iterator[Callable[[], Any]]:
    """Yield ways to a tiny configuration of a type, the plainest first. Each may raise anything."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[model_type]
    table = shrink(cls().to_dict(), [200])
    given = exceptions().get(model_type, {})
    for dropped in given.get("drop", ()):
        _put(table, dropped, None, drop=True)
    for path, value in given.items():
        if path not in ("drop", "inputs", "cache"):
            _put(table, path, value)
    without = (), ("layer_types", "mlp_layer_types", "layers_block_type"), ("head_dim",)
    for lost in without:
        kept = {key: value for key, value in table.items() if key not in lost}
        yield lambda kept=kept: cls.from_dict(kept)
    yield lambda: cls.from_dict(_with_sections(table))
    yield lambda: cls.from_dict(_shallow(cls().to_dict()))


def shrink(table: Mapping[str, Any], ids: list[int]) -> Table:
    """Return a configuration with small sizes; `ids` holds the last number that was given to a special token."""
    heads, kv = _first(table, _HEAD_KEYS), _first(table, _KV_KEYS)
    kv_heads = 2 if heads and kv and kv < heads else 4
    layers = _first(table, _LAYER_KEYS)
    made: Table = {}
    for key, value in table.items():
        if key in _LEFT_OUT:
            continue
        if value is None and key in _ABSENT:
            made[key] = _ABSENT[key]
        elif key == "per_layer_config" and isinstance(value, dict):
            made[key] = {name: shrink(part, ids) for name, part in value.items() if int(name) < LAYERS}
        elif isinstance(value, dict) and ("model_type" in value or key.endswith("config")):
            made[key] = shrink(value, ids)
        elif isinstance(value, dict) and key.startswith("rope"):
            made[key] = _rope(value)
        elif isinstance(value, list) and value:
            made[key] = _list(key, value, layers, kv_heads, ids)
        else:
            made[key] = _number(key, value, kv_heads, ids)
    return made


def _first(table: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((table[key] for key in keys if isinstance(table.get(key), int)), None)


def _number(key: str, value: Any, kv_heads: int, ids: list[int]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _IDS.search(key):
        if value < 200:
            return value
        ids[0] += 1
        return ids[0]
    for pattern, size in _RULES:
        if re.search(pattern, key):
            if size == "kv":
                return value if value == 1 else kv_heads
            return min(value, int(size)) if value else value
    return value


def _list(key: str, value: list[Any], layers: int | None, kv_heads: int, ids: list[int]) -> list[Any]:
    if layers is not None and layers > LAYERS and len(value) == layers:
        return [_number(key.rstrip("s"), one, kv_heads, ids) for one in _kinds(value)]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return value
    if re.search(r"depths|num_blocks|layers_per|num_layers|layer_depth", key):
        return [1] * len(value)
    if re.search(r"hidden_sizes|embed_dims|embedding_hidden|conv_dim|channels$|widths|out_features_dims", key):
        return [max(16, one // 8) // 16 * 16 if one > 16 else one for one in value]
    if re.search(r"(layer|attn).*(idx|ind|id|layers)|block_ids|interval", key):
        return sorted({min(one, LAYERS - 1) for one in value}) or value
    return value


def _kinds(values: list[Any]) -> list[Any]:
    """Return the first values of a list for each layer, with one of every kind as far as there is room."""
    head = values[:LAYERS]
    for kind in [one for at, one in enumerate(values) if one not in values[:at]]:
        if kind not in head:
            repeated = next((at for at in range(LAYERS - 1, -1, -1) if head.count(head[at]) > 1), None)
            if repeated is not None:
                head[repeated] = kind
    return head


def _rope(table: Mapping[str, Any]) -> Table:
    made: Table = {}
    for key, value in table.items():
        if isinstance(value, dict):
            made[key] = _rope(value)
        elif key == "mrope_section" and isinstance(value, list) and len(value) == 3:
            made[key] = [4, 2, 2]
        elif key == "original_max_position_embeddings":
            made[key] = min(value, 256)
        elif key in ("short_factor", "long_factor"):
            made[key] = value[:8]
        else:
            made[key] = value
    return made


def _with_sections(table: Table) -> Table:
    """Return a configuration whose rotary embeddings have the sections that models of images want."""
    made: Table = {}
    for key, value in table.items():
        if key == "rope_parameters" and isinstance(value, dict) and "full_attention" not in value:
            made[key] = {**value, "mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
        else:
            made[key] = _with_sections(value) if isinstance(value, dict) else value
    return made


_DEEP = re.compile(r"num_hidden_layers|^n_layers?$|num_layers|encoder_layers|decoder_layers|vocab_size|^depth$")


def _shallow(table: Mapping[str, Any]) -> Table:
    """Return a configuration with few layers and few words, and all widths as they are."""
    layers = _first(table, _LAYER_KEYS)
    made: Table = {}
    for key, value in table.items():
        if key in ("id2label", "label2id", "architectures"):
            continue
        if isinstance(value, dict):
            made[key] = _shallow(value)
        elif isinstance(value, list) and layers is not None and layers > LAYERS and len(value) == layers:
            made[key] = _kinds(value)
        elif isinstance(value, int) and not isinstance(value, bool) and _DEEP.search(key):
            made[key] = min(value, 2048 if "vocab" in key else LAYERS)
        else:
            made[key] = value
    return made


def _put(table: Table, path: str, value: Any, *, drop: bool = False) -> None:
    *above, last = path.split(".")
    for key in above:
        table = table.setdefault(key, {})
    if drop:
        table.pop(last, None)
    else:
        table[last] = value
