"""Templates of decoders with experts: Mixtral, and those whose first layers are dense or whose attention is latent.

Owns the rows of their layers, dense and routed. What they share with dense decoders is in `decoders`.
"""

from __future__ import annotations

from collections.abc import Sequence

from devpolicy._core.model.architecture_template import Config, fill
from devpolicy._core.model.templates.decoders import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    alternating,
    body,
    heads,
    sizes_of,
)
from devpolicy._core.model.templates.family import Body, Family, rotary

_ROUTED = """
mlp                                 {C}{block}
{first}
mlp.experts                         {C}Experts fused gate_up_proj=experts,twice_moe,hidden down_proj=experts,hidden,moe
mlp.experts.act_fn                  {act}
{second}
"""
_GATE = "mlp.gate {C}{router} weight{gate32}=experts,hidden {balance}"
_BALANCE = "e_score_correction_bias!float32^any=experts"
_SHARED = """
mlp.shared_experts                  {C}MLP
mlp.shared_experts.gate_proj        Linear weight=shared,hidden {mlp_bias:bias=shared}
mlp.shared_experts.up_proj          Linear weight=shared,hidden {mlp_bias:bias=shared}
mlp.shared_experts.down_proj        Linear weight=hidden,shared {mlp_bias:bias=hidden}
mlp.shared_experts.act_fn           {act}
"""
_GPT_OSS = """
mlp                                 GptOssMLP
mlp.router                          GptOssTopKRouter weight=experts,hidden bias=experts
mlp.experts                         GptOssExperts {experts}
"""
_GPT_OSS_EXPERTS = (
    "gate_up_proj=experts,hidden,twice gate_up_proj_bias=experts,twice "
    "down_proj=experts,inner,hidden down_proj_bias=experts,hidden"
)
_LATENT = """
{queries}
self_attn.kv_a_proj_with_mqa        Linear weight=kv_a,hidden {qkv_bias:bias=kv_a}
self_attn.kv_a_layernorm            {C}RMSNorm weight=kv_rank
self_attn.kv_b_proj                 Linear weight=kv_b,kv_rank
self_attn.o_proj                    Linear weight=hidden,o {qkv_bias:bias=hidden}
"""
_QUERIES = "self_attn.q_proj Linear weight=q,hidden"
_LOW_RANK_QUERIES = """
self_attn.q_a_proj                  Linear weight=q_rank,hidden {qkv_bias:bias=q_rank}
self_attn.q_a_layernorm             {C}RMSNorm weight=q_rank
self_attn.q_b_proj                  Linear weight=q,q_rank
"""


def _routed(block: str, router: str, *, gate_first: bool = False, shared: bool = False, **words: str) -> str:
    """Return the rows of a feed-forward part with experts."""
    gate = fill(_GATE, {"router": router, "gate32": "", "balance": "", **words})
    rest = _SHARED if shared else ""
    first, second = (gate, rest) if gate_first else ("", f"{gate}\n{rest}")
    return fill(_ROUTED, {"block": block, "first": first, "second": second})


def _experts(config: Config, count: str, inner: str) -> dict[str, int]:
    moe = config[inner]
    shared = moe * config.get("n_shared_experts", 1)
    return {"experts": config[count], "moe": moe, "twice_moe": 2 * moe, "shared": shared}


def _mixtral(config: Config) -> Body:
    sizes = {**sizes_of(config), **_experts(config, "num_local_experts", "intermediate_size")}
    mlp = _routed("SparseMoeBlock", "TopKRouter", gate_first=True)
    flags = {"qkv_bias": False, "o_bias": False}
    return body("Mixtral", config, mlp=mlp, sizes=sizes, flags=flags, experts=True)


def _dense_below(config: Config, first: int) -> list[str]:
    return ["dense" if layer < first else "sparse" for layer in range(config["num_hidden_layers"])]


def _qwen3_moe(config: Config) -> Body:
    if not config.get("use_sliding_window"):
        config = {**config, "sliding_window": None}
    dense, step = config.get("mlp_only_layers") or [], config["decoder_sparse_step"]
    kinds = [
        "sparse" if layer not in dense and (layer + 1) % step == 0 else "dense"
        for layer in range(config["num_hidden_layers"])
    ]
    bias = bool(config.get("attention_bias"))
    return body(
        "Qwen3Moe", config, attention=ATTENTION + HEAD_NORMS, kinds=kinds, experts=True,
        mlp={"dense": MLP, "sparse": _routed("SparseMoeBlock", "TopKRouter")},
        sizes={**sizes_of(config), **_experts(config, "num_experts", "moe_intermediate_size")},
        flags={"qkv_bias": bias, "o_bias": bias, "mlp_bias": False},
    )  # fmt: skip


def _glm4_moe(config: Config) -> Body:
    kinds = _dense_below(config, config["first_k_dense_replace"])
    routed = _routed("MoE", "TopkRouter", shared=True, gate32="^any", balance=_BALANCE)
    return body(
        "Glm4Moe", config, attention=ATTENTION + HEAD_NORMS * bool(config.get("use_qk_norm")), kinds=kinds,
        mlp={"dense": MLP, "sparse": routed}, experts=True,
        sizes={**sizes_of(config, partial=0.5), **_experts(config, "n_routed_experts", "moe_intermediate_size")},
        flags={"qkv_bias": bool(config.get("attention_bias")), "o_bias": False, "mlp_bias": False},
    )  # fmt: skip


def _latent(
    config: Config,
    cls: str,
    kinds: Sequence[str],
    rope_of: int,
    routed: str,
    *,
    mlp_bias: bool = False,
    partial: float | None = None,
) -> Body:
    """Return the body of a decoder whose keys and values are compressed."""
    count, rank, low = config["num_attention_heads"], config["kv_lora_rank"], config.get("q_lora_rank")
    nope, turned, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    sizes = {
        **sizes_of(config), **_experts(config, "n_routed_experts", "moe_intermediate_size"),
        "q": count * (nope + turned), "q_rank": 1 if low is None else low, "kv_rank": rank, "kv_a": rank + turned,
        "kv_b": count * (nope + value), "o": count * value, "rope": rotary(config, rope_of, partial),
    }  # fmt: skip
    queries = _QUERIES if low is None else _LOW_RANK_QUERIES
    return body(
        cls, config, attention=fill(_LATENT, {"queries": queries}), kinds=kinds,
        mlp={"dense": MLP, "sparse": routed}, experts=True, sizes=sizes,
        flags={"qkv_bias": bool(config.get("attention_bias")), "mlp_bias": mlp_bias},
    )  # fmt: skip


def _deepseek_v2(config: Config) -> Body:
    kinds = _dense_below(config, config["first_k_dense_replace"])
    routed = _routed("Moe", "TopkRouter", shared=True, gate32="^any")
    turned = config["qk_rope_head_dim"]
    return _latent(config, "DeepseekV2", kinds, turned, routed, mlp_bias=bool(config.get("mlp_bias")))


def _deepseek_v3(config: Config) -> Body:
    kinds = _dense_below(config, config["first_k_dense_replace"])
    routed = _routed("MoE", "TopkRouter", shared=True, gate32="^any", balance=_BALANCE)
    turned = config.get("head_dim") or config["qk_rope_head_dim"]
    return _latent(config, "DeepseekV3", kinds, turned, routed)


def _glm4_moe_lite(config: Config) -> Body:
    kinds = config.get("mlp_layer_types") or _dense_below(config, 1)
    routed = _routed("MoE", "TopkRouter", shared=True, gate32="^any", balance=_BALANCE)
    turned = config.get("head_dim") or config["qk_rope_head_dim"]
    return _latent(config, "Glm4MoeLite", kinds, turned, routed, partial=1.0)


def _gpt_oss(config: Config) -> Body:
    config = {**config, "layer_types": alternating(config, 2)}
    bias = bool(config.get("attention_bias"))
    return body(
        "GptOss", config, mlp=fill(_GPT_OSS, {"experts": _GPT_OSS_EXPERTS}), experts=True, implementation="eager",
        words={"norm32": "^float16", "own": " sinks=heads"}, flags={"qkv_bias": bias, "o_bias": bias},
        sizes={**sizes_of(config), "experts": config["num_local_experts"]},
    )  # fmt: skip


MIXTURES = {
    "mixtral": Family(
        "MixtralModel", _mixtral, "model", heads("Mixtral", "SequenceClassification", "TokenClassification")
    ),
    "qwen3_moe": Family(
        "Qwen3MoeModel", _qwen3_moe, "model", heads("Qwen3Moe", "SequenceClassification", "TokenClassification")
    ),
    "gpt_oss": Family(
        "GptOssModel", _gpt_oss, "model", heads("GptOss", "SequenceClassification", "TokenClassification")
    ),
    "deepseek_v2": Family("DeepseekV2Model", _deepseek_v2, "model", heads("DeepseekV2", "SequenceClassification")),
    "deepseek_v3": Family(
        "DeepseekV3Model", _deepseek_v3, "model", heads("DeepseekV3", "SequenceClassification", "TokenClassification")
    ),
    "glm4_moe": Family("Glm4MoeModel", _glm4_moe, "model", heads("Glm4Moe")),
    "glm4_moe_lite": Family("Glm4MoeLiteModel", _glm4_moe_lite, "model", heads("Glm4MoeLite")),
}
"""The families of decoders with experts, by model type."""
