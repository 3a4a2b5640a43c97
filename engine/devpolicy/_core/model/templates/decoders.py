"""Templates of decoders: Llama and those that are built like it.

Owns their rows, and which layers differ: those with biases, norms of queries and keys, or sliding windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devpolicy._core.model.architecture_template import Config, fill, layers
from devpolicy._core.model.templates.family import ACTIVATIONS, Body, Family, Head, rotary

_BODY = """
embed_tokens                        {embedding}
{layers}
norm                                {C}RMSNorm weight{norm32}=hidden
rotary_emb                          {C}RotaryEmbedding {rotary}
"""
_EMBEDDING = "Embedding weight=vocab,hidden"
SCALED_EMBEDDING = "{C}TextScaledWordEmbedding weight=vocab,hidden embed_scale~="
ROTARY = "inv_freq~float32=rope original_inv_freq~float32=rope"
_LAYER = """
                                    {C}DecoderLayer
self_attn                           {C}Attention{own}
{attention}
{mlp}
input_layernorm                     {C}RMSNorm weight{norm32}=hidden
post_attention_layernorm            {C}RMSNorm weight{norm32}=hidden
{more}
"""
ATTENTION = """
self_attn.q_proj                    Linear weight=q,hidden {qkv_bias:bias=q}
self_attn.k_proj                    Linear weight=kv,hidden {qkv_bias:bias=kv}
self_attn.v_proj                    Linear weight=kv,hidden {qkv_bias:bias=kv}
self_attn.o_proj                    Linear weight=hidden,q {o_bias:bias=hidden}
"""
HEAD_NORMS = """
self_attn.q_norm                    {C}RMSNorm weight=head_dim
self_attn.k_norm                    {C}RMSNorm weight=head_dim
"""
_FUSED_ATTENTION = """
self_attn.o_proj                    Linear weight=hidden,q
self_attn.qkv_proj                  Linear weight=qkv,hidden
"""
MLP = """
mlp                                 {C}MLP
mlp.gate_proj                       Linear weight=inner,hidden {mlp_bias:bias=inner}
mlp.up_proj                         Linear weight=inner,hidden {mlp_bias:bias=inner}
mlp.down_proj                       Linear weight=hidden,inner {mlp_bias:bias=hidden}
mlp.act_fn                          {act}
"""
_FUSED_MLP = """
mlp                                 {C}MLP
mlp.gate_up_proj                    Linear weight=twice,hidden
mlp.down_proj                       Linear weight=hidden,inner
mlp.activation_fn                   {act}
"""
_DROPOUTS = """
resid_attn_dropout                  Dropout
resid_mlp_dropout                   Dropout
"""
_GEMMA_NORMS = """
pre_feedforward_layernorm           {C}RMSNorm weight=hidden
post_feedforward_layernorm          {C}RMSNorm weight=hidden
"""
_GLM_NORMS = """
post_self_attn_layernorm            {C}RMSNorm weight=hidden
post_mlp_layernorm                  {C}RMSNorm weight=hidden
"""


_HEADS = {
    "CausalLM": "lm_head Linear weight=vocab,hidden",
    "SequenceClassification": "score Linear weight=labels,hidden",
    "TokenClassification": "dropout Dropout\nscore Linear weight=labels,hidden bias=labels",
    "QuestionAnswering": "qa_outputs Linear weight=2,hidden bias=2",
}


def heads(cls: str, *tasks: str, answering: str = "") -> dict[str, Head]:
    """Return the classes of a decoder: the one that writes text, and those for some tasks.

    `answering` is the name of the body in the class that answers questions.
    """
    tied = {"CausalLM": (("model.embed_tokens.weight", "lm_head.weight"),)}
    bases = {"QuestionAnswering": answering}
    return {
        f"{cls}For{task}": Head(f"@ {bases.get(task, '')}\n{_HEADS[task]}", tied.get(task, ()))
        for task in ("CausalLM", *tasks)
    }


_ALL = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
_TWO = _ALL[:2]


def sizes_of(config: Config, partial: float | None = None) -> dict[str, int]:
    """Return the sizes of a decoder's rows."""
    hidden, all_heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    given, kv_heads = config.get("head_dim"), config.get("num_key_value_heads")
    head_dim = hidden // all_heads if given is None else given
    q, kv = all_heads * head_dim, (all_heads if kv_heads is None else kv_heads) * head_dim
    return {
        "vocab": config["vocab_size"], "hidden": hidden, "inner": inner, "twice": 2 * inner, "q": q, "kv": kv,
        "qkv": q + 2 * kv, "head_dim": head_dim, "heads": all_heads, "rope": rotary(config, head_dim, partial),
    }  # fmt: skip


def body(
    cls: str,
    config: Config,
    *,
    attention: str = ATTENTION,
    mlp: str | Mapping[str, str] = MLP,
    more: str = "",
    embedding: str = _EMBEDDING,
    rotary_emb: str = ROTARY,
    act: str = "hidden_act",
    kinds: Sequence[str] | None = None,
    flags: Mapping[str, bool] | None = None,
    words: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    **other: Any,
) -> Body:
    """Return the body of a decoder: its layers of one kind, or of several where `mlp` has rows for each of `kinds`."""
    config = {"num_key_value_heads": config["num_attention_heads"], **config}
    rows = {"": mlp} if isinstance(mlp, str) else mlp
    count = config["num_hidden_layers"]
    texts = {
        "attention": attention, "more": more, "embedding": embedding, "rotary": rotary_emb, "norm32": "",
        "own": "", **(words or {}), "C": cls, "act": ACTIVATIONS[config[act]],
    }  # fmt: skip
    each = {kind: fill(_LAYER, {"mlp": text, **texts}, flags) for kind, text in rows.items()}
    listed = layers("layers", kinds or [""] * count, each)
    return Body(
        fill(_BODY, {"layers": listed, **texts}, flags),
        sizes or sizes_of(config),
        (f"{cls}DecoderLayer",),
        config,
        **other,
    )


def alternating(config: Config, full: int) -> list[str]:
    """Return the types of layers of which every `full`-th attends to all."""
    given = config.get("layer_types")
    if given:
        return list(given)
    return [
        "sliding_attention" if (layer + 1) % full else "full_attention" for layer in range(config["num_hidden_layers"])
    ]


def _llama(config: Config) -> Body:
    bias = bool(config.get("attention_bias"))
    return body("Llama", config, flags={"qkv_bias": bias, "o_bias": bias, "mlp_bias": bool(config.get("mlp_bias"))})


def _mistral(config: Config) -> Body:
    return body("Mistral", config, flags=dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias"), False))


def windowed(config: Config) -> Config:
    """Return a configuration of Qwen with the windows that its layers have."""
    if not config.get("use_sliding_window"):
        config = {**config, "sliding_window": None}
    window, first = config.get("sliding_window"), config["max_window_layers"]
    types = config.get("layer_types") or [
        "sliding_attention" if window is not None and layer >= first else "full_attention"
        for layer in range(config["num_hidden_layers"])
    ]
    return {**config, "layer_types": types}


def _qwen2(config: Config) -> Body:
    return body("Qwen2", windowed(config), flags={"qkv_bias": True, "o_bias": False, "mlp_bias": False})


def _qwen3(config: Config) -> Body:
    bias = bool(config.get("attention_bias"))
    flags = {"qkv_bias": bias, "o_bias": bias, "mlp_bias": False}
    return body("Qwen3", windowed(config), attention=ATTENTION + HEAD_NORMS, flags=flags)


def _phi3(config: Config) -> Body:
    sizes = sizes_of(config, partial=1.0)
    return body("Phi3", config, attention=_FUSED_ATTENTION, mlp=_FUSED_MLP, more=_DROPOUTS, sizes=sizes)


def _gemma2(config: Config) -> Body:
    config = {**config, "layer_types": alternating(config, 2)}
    bias = bool(config.get("attention_bias"))
    return body(
        "Gemma2", config, more=_GEMMA_NORMS, embedding=SCALED_EMBEDDING, act="hidden_activation",
        flags={"qkv_bias": bias, "o_bias": bias, "mlp_bias": False}, implementation="eager",
    )  # fmt: skip


def gemma3_text(config: Config) -> Body:
    """Return the body of Gemma 3, whose positions are those of each type of its layers."""
    types = alternating(config, config.get("sliding_window_pattern") or 6)
    config = {**config, "layer_types": types}
    named = [f"{kind}_{name}~float32=rope" for kind in sorted(set(types)) for name in ("inv_freq", "original_inv_freq")]
    bias = bool(config.get("attention_bias"))
    return body(
        "Gemma3", config, attention=ATTENTION + HEAD_NORMS, more=_GEMMA_NORMS, embedding=SCALED_EMBEDDING,
        act="hidden_activation", rotary_emb=" ".join(named),
        flags={"qkv_bias": bias, "o_bias": bias, "mlp_bias": False},
    )  # fmt: skip


def _glm(config: Config, cls: str, more: str) -> Body:
    flags = {"qkv_bias": bool(config.get("attention_bias")), "o_bias": False}
    return body(cls, config, mlp=_FUSED_MLP, more=more, flags=flags, sizes=sizes_of(config, partial=0.5))


DECODERS = {
    "llama": Family("LlamaModel", _llama, "model", heads("Llama", *_ALL, answering="transformer")),
    "mistral": Family("MistralModel", _mistral, "model", heads("Mistral", *_ALL)),
    "qwen2": Family("Qwen2Model", _qwen2, "model", heads("Qwen2", *_ALL, answering="transformer")),
    "qwen3": Family("Qwen3Model", _qwen3, "model", heads("Qwen3", *_ALL, answering="transformer")),
    "phi3": Family("Phi3Model", _phi3, "model", heads("Phi3", *_TWO)),
    "gemma2": Family("Gemma2Model", _gemma2, "model", heads("Gemma2", *_TWO)),
    "gemma3_text": Family("Gemma3TextModel", gemma3_text, "model", heads("Gemma3")),
    "glm": Family("GlmModel", lambda config: _glm(config, "Glm", ""), "model", heads("Glm", *_TWO)),
    "glm4": Family("Glm4Model", lambda config: _glm(config, "Glm4", _GLM_NORMS), "model", heads("Glm4", *_TWO)),
}
"""The families of decoders without experts, by model type."""
