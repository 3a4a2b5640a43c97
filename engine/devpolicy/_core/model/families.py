"""Structures of common model families, from a configuration alone.

Owns templates for hosts where Transformers is not installed: what its version 5 would build, row by row. A test holds
each against the real model. Whatever a template does not know (another task head, another activation) is no match, and
the caller falls back to what the checkpoint's headers say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.model.architecture_template import Config, Template, build, fill
from devpolicy._core.model.facts import dtype_of
from devpolicy._core.model.tree import ModelTree

_LLAMA = """
model                                     {C}Model
model.embed_tokens                        Embedding weight=vocab,hidden
model.layers                              ModuleList
model.layers.N                            {C}DecoderLayer
model.layers.N.self_attn                  {C}Attention
model.layers.N.self_attn.q_proj           Linear weight=q,hidden {qkv_bias:bias=q}
model.layers.N.self_attn.k_proj           Linear weight=kv,hidden {qkv_bias:bias=kv}
model.layers.N.self_attn.v_proj           Linear weight=kv,hidden {qkv_bias:bias=kv}
model.layers.N.self_attn.o_proj           Linear weight=hidden,q {o_bias:bias=hidden}
{mlp}
model.layers.N.input_layernorm            {C}RMSNorm weight=hidden
model.layers.N.post_attention_layernorm   {C}RMSNorm weight=hidden
model.norm                                {C}RMSNorm weight=hidden
model.rotary_emb                          {C}RotaryEmbedding inv_freq~float32=rope original_inv_freq~float32=rope
lm_head                                   Linear weight=vocab,hidden
"""
_GATED_MLP = """
model.layers.N.mlp                        {C}MLP
model.layers.N.mlp.gate_proj              Linear weight=inner,hidden {mlp_bias:bias=inner}
model.layers.N.mlp.up_proj                Linear weight=inner,hidden {mlp_bias:bias=inner}
model.layers.N.mlp.down_proj              Linear weight=hidden,inner {mlp_bias:bias=hidden}
model.layers.N.mlp.act_fn                 {act}
"""
_EXPERTS = """
model.layers.N.mlp                        {C}SparseMoeBlock
model.layers.N.mlp.gate                   {C}TopKRouter weight=experts,hidden
model.layers.N.mlp.experts                {C}Experts gate_up_proj=experts,twice,hidden down_proj=experts,hidden,inner
model.layers.N.mlp.experts.act_fn         {act}
"""
_GPT2 = """
transformer                               GPT2Model
transformer.wte                           Embedding weight=vocab,hidden
transformer.wpe                           Embedding weight=positions,hidden
transformer.drop                          Dropout
transformer.h                             ModuleList
transformer.h.N                           GPT2Block
transformer.h.N.ln_1                      LayerNorm weight=hidden bias=hidden
transformer.h.N.attn                      GPT2Attention
transformer.h.N.attn.c_attn               Conv1D weight=hidden,qkv bias=qkv
transformer.h.N.attn.c_proj               Conv1D weight=hidden,hidden bias=hidden
transformer.h.N.attn.attn_dropout         Dropout
transformer.h.N.attn.resid_dropout        Dropout
transformer.h.N.ln_2                      LayerNorm weight=hidden bias=hidden
transformer.h.N.mlp                       GPT2MLP
transformer.h.N.mlp.c_fc                  Conv1D weight=hidden,inner bias=inner
transformer.h.N.mlp.c_proj                Conv1D weight=inner,hidden bias=hidden
transformer.h.N.mlp.act                   {act}
transformer.h.N.mlp.dropout               Dropout
transformer.ln_f                          LayerNorm weight=hidden bias=hidden
lm_head                                   Linear weight=vocab,hidden
"""
_BERT = """
embeddings                                BertEmbeddings position_ids~int64=1,positions token_type_ids~int64=1,positions
embeddings.word_embeddings                Embedding weight=vocab,hidden
embeddings.position_embeddings            Embedding weight=positions,hidden
embeddings.token_type_embeddings          Embedding weight=types,hidden
embeddings.LayerNorm                      LayerNorm weight=hidden bias=hidden
embeddings.dropout                        Dropout
encoder                                   BertEncoder
encoder.layer                             ModuleList
encoder.layer.N                           BertLayer
encoder.layer.N.attention                 BertAttention
encoder.layer.N.attention.self            BertSelfAttention
encoder.layer.N.attention.self.query      Linear weight=hidden,hidden bias=hidden
encoder.layer.N.attention.self.key        Linear weight=hidden,hidden bias=hidden
encoder.layer.N.attention.self.value      Linear weight=hidden,hidden bias=hidden
encoder.layer.N.attention.self.dropout    Dropout
encoder.layer.N.attention.output          BertSelfOutput
encoder.layer.N.attention.output.dense    Linear weight=hidden,hidden bias=hidden
encoder.layer.N.attention.output.LayerNorm LayerNorm weight=hidden bias=hidden
encoder.layer.N.attention.output.dropout  Dropout
encoder.layer.N.intermediate              BertIntermediate
encoder.layer.N.intermediate.dense        Linear weight=inner,hidden bias=inner
encoder.layer.N.intermediate.intermediate_act_fn {act}
encoder.layer.N.output                    BertOutput
encoder.layer.N.output.dense              Linear weight=hidden,inner bias=hidden
encoder.layer.N.output.LayerNorm          LayerNorm weight=hidden bias=hidden
encoder.layer.N.output.dropout            Dropout
"""
_BERT_POOLER = """
pooler                                    BertPooler
pooler.dense                              Linear weight=hidden,hidden bias=hidden
pooler.activation                         Tanh
"""
_BERT_MASKED = """
cls                                       BertOnlyMLMHead
cls.predictions                           BertLMPredictionHead bias=vocab
cls.predictions.transform                 BertPredictionHeadTransform
cls.predictions.transform.dense           Linear weight=hidden,hidden bias=hidden
cls.predictions.transform.transform_act_fn {act}
cls.predictions.transform.LayerNorm       LayerNorm weight=hidden bias=hidden
cls.predictions.decoder                   Linear weight=vocab,hidden bias=vocab
"""
_BERT_TIES: tuple[tuple[str, ...], ...] = (
    ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
)
_T5_ATTENTION = """
{layer}.{name}                                  T5Attention
{layer}.{name}.q                                Linear weight=q,hidden
{layer}.{name}.k                                Linear weight=q,hidden
{layer}.{name}.v                                Linear weight=q,hidden
{layer}.{name}.o                                Linear weight=hidden,q
{bias}
{layer}.layer_norm                              T5LayerNorm weight=hidden
{layer}.dropout                                 Dropout
"""
_T5_FEED_FORWARD = """
{dense}
{layer}.layer_norm                              T5LayerNorm weight=hidden
{layer}.dropout                                 Dropout
"""
_T5_DENSE = """
{layer}.DenseReluDense                          T5DenseActDense
{layer}.DenseReluDense.wi                       Linear weight=inner,hidden
{layer}.DenseReluDense.wo                       Linear weight=hidden,inner
{layer}.DenseReluDense.dropout                  Dropout
{layer}.DenseReluDense.act                      {act}
"""
_T5_GATED = """
{layer}.DenseReluDense                          T5DenseGatedActDense
{layer}.DenseReluDense.wi_0                     Linear weight=inner,hidden
{layer}.DenseReluDense.wi_1                     Linear weight=inner,hidden
{layer}.DenseReluDense.wo                       Linear weight=hidden,inner
{layer}.DenseReluDense.dropout                  Dropout
{layer}.DenseReluDense.act                      {act}
"""
_ACTIVATIONS = {
    "silu": "SiLUActivation",
    "gelu": "GELUActivation",
    "gelu_new": "NewGELUActivation",
    "relu": "ReLU",
}


def family_tree(config: Config, dtype: str | None = None) -> ModelTree | None:
    """Return the model that Transformers would build, or `None` where no template knows it.

    `config` is the content of a `config.json`, `dtype` what is loaded, by default what it names, else float32.
    """
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not isinstance(architecture, str):
        return None
    try:
        template = family(config, architecture)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # a size that the template needs is missing or no number
    if template is None:
        return None
    if not all(isinstance(size, int) and size > 0 for size in (*template.sizes.values(), template.layers)):
        return None
    return build(template, architecture, dtype or loaded_dtype(dtype_of(config), ()))


def checkpoint_name(model_type: str, key: str) -> str:
    """Return the module tensor that a checkpoint's tensor belongs to, for renamings that the templates need."""
    key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if model_type == "mixtral":
        key = key.replace(".block_sparse_moe.", ".mlp.")
        head, found, rest = key.partition(".mlp.experts.")
        if found:
            part = "down_proj" if rest.endswith("w2.weight") else "gate_up_proj"
            return f"{head}{found}{part}"
    return key


def _llama_like(config: Config, architecture: str, prefix: str, defaults: Mapping[str, Any]) -> Template | None:
    if architecture != f"{prefix}ForCausalLM":
        return None
    given = {"use_cache": True, **defaults, **config}
    hidden, heads = given["hidden_size"], given["num_attention_heads"]
    head_dim = given.get("head_dim") or hidden // heads
    kv_heads = given.get("num_key_value_heads") or heads
    mixture = prefix == "Mixtral"
    sizes = {
        "vocab": given["vocab_size"], "hidden": hidden, "inner": given["intermediate_size"], "q": heads * head_dim,
        "kv": kv_heads * head_dim, "rope": head_dim // 2, "twice": 2 * given["intermediate_size"],
        "experts": given["num_local_experts"] if mixture else 1,
    }  # fmt: skip
    words = {
        "mlp": _EXPERTS if mixture else _GATED_MLP,
        "C": prefix,
        "act": _ACTIVATIONS[given.get("hidden_act", "silu")],
    }
    attention_bias = bool(given.get("attention_bias"))
    flags = {
        "qkv_bias": attention_bias or prefix == "Qwen2",
        "o_bias": attention_bias and prefix == "Llama",
        "mlp_bias": bool(given.get("mlp_bias")) and prefix == "Llama",
    }
    ties = (("model.embed_tokens.weight", "lm_head.weight"),) if given.get("tie_word_embeddings") else ()
    converted = frozenset({"experts"}) if mixture else frozenset[str]()
    rows, layers = fill(_LLAMA, words, flags), given["num_hidden_layers"]
    return Template(rows, sizes, layers, (f"{prefix}DecoderLayer",), given, ties, experts=mixture, converted=converted)


def _llama(config: Config, architecture: str) -> Template | None:
    return _llama_like(config, architecture, "Llama", {})


def _mistral(config: Config, architecture: str) -> Template | None:
    return _llama_like(config, architecture, "Mistral", {"sliding_window": 4096, "num_key_value_heads": 8})


def _mixtral(config: Config, architecture: str) -> Template | None:
    return _llama_like(config, architecture, "Mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2})


def _qwen2(config: Config, architecture: str) -> Template | None:
    given = {"num_key_value_heads": 32, "max_window_layers": 28, "sliding_window": 4096, **config}
    if not given.get("use_sliding_window"):
        given["sliding_window"] = None
    elif not given.get("layer_types"):
        first = given["max_window_layers"]
        given["layer_types"] = [
            "sliding_attention" if layer >= first else "full_attention" for layer in range(given["num_hidden_layers"])
        ]
    return _llama_like(given, architecture, "Qwen2", {})


def _gpt2(config: Config, architecture: str) -> Template | None:
    if architecture != "GPT2LMHeadModel":
        return None
    given = {"use_cache": True, "tie_word_embeddings": True, "n_positions": 1024, **config}
    if given.get("add_cross_attention"):
        return None
    hidden = given["n_embd"]
    sizes = {
        "vocab": given["vocab_size"], "hidden": hidden, "positions": given["n_positions"], "qkv": 3 * hidden,
        "inner": given.get("n_inner") or 4 * hidden,
    }  # fmt: skip
    words = {"act": _ACTIVATIONS[given.get("activation_function", "gelu_new")]}
    ties = (("transformer.wte.weight", "lm_head.weight"),) if given["tie_word_embeddings"] else ()
    return Template(fill(_GPT2, words), sizes, given["n_layer"], ("GPT2Block",), given, ties)


def _bert(config: Config, architecture: str) -> Template | None:
    given = {"use_cache": True, "is_decoder": False, "tie_word_embeddings": True, "type_vocab_size": 2, **config}
    if given["is_decoder"] or given.get("add_cross_attention"):
        return None
    rows, ties = _BERT, _BERT_TIES if given["tie_word_embeddings"] else ()
    if architecture == "BertForMaskedLM":
        below = "\n".join(f"bert.{row}" for row in _BERT.strip().splitlines())
        rows = f"bert BertModel\n{below}\n{_BERT_MASKED.strip()}"
    elif architecture == "BertModel":
        rows, ties = _BERT + _BERT_POOLER.lstrip(), ()
    else:
        return None
    sizes = {
        "vocab": given["vocab_size"], "hidden": given["hidden_size"], "inner": given["intermediate_size"],
        "positions": given["max_position_embeddings"], "types": given["type_vocab_size"],
    }  # fmt: skip
    words = {"act": _ACTIVATIONS[given.get("hidden_act", "gelu")]}
    layers = given["num_hidden_layers"]
    return Template(fill(rows, words), sizes, layers, ("BertEmbeddings", "BertLayer"), given, ties)


def _t5(config: Config, architecture: str) -> Template | None:
    if architecture != "T5ForConditionalGeneration":
        return None
    given = {"use_cache": True, "is_encoder_decoder": True, **config}
    kind = str(given.get("feed_forward_proj", "relu"))
    gated, _, act = kind.rpartition("-")
    words = {"act": _ACTIVATIONS["gelu_new" if kind == "gated-gelu" else act]}
    dense = _T5_GATED if gated == "gated" else _T5_DENSE
    layers, decoders = given["num_layers"], given.get("num_decoder_layers") or given["num_layers"]
    rows = ["shared Embedding weight=vocab,hidden"]
    for stack, count in (("encoder", layers), ("decoder", decoders)):
        rows += [f"{stack} T5Stack", f"{stack}.embed_tokens Embedding weight=vocab,hidden", f"{stack}.block ModuleList"]
        rows += _t5_block(f"{stack}.block.0", dense, cross=stack == "decoder", first=True)
        if count > 1:
            rows += _t5_block(f"{stack}.block.{{1..{count - 1}}}", dense, cross=stack == "decoder", first=False)
        rows += [f"{stack}.final_layer_norm T5LayerNorm weight=hidden", f"{stack}.dropout Dropout"]
    rows.append("lm_head Linear weight=vocab,hidden")
    sizes = {
        "vocab": given["vocab_size"], "hidden": given["d_model"], "inner": given["d_ff"],
        "q": given["num_heads"] * given["d_kv"], "heads": given["num_heads"],
        "buckets": given.get("relative_attention_num_buckets", 32),
    }  # fmt: skip
    # Declared whatever `tie_word_embeddings` says: where a checkpoint holds another head, loading leaves it untied.
    ties = (("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),)
    return Template(
        fill("\n".join(rows), words), sizes, layers, ("T5Block",), given, ties, float16_islands=frozenset({"wo"})
    )


def _t5_block(path: str, dense: str, *, cross: bool, first: bool) -> list[str]:
    """Return the rows of one block or a range of them. Only the first of a stack holds the relative positions."""
    parts = [("T5LayerSelfAttention", "SelfAttention"), *([("T5LayerCrossAttention", "EncDecAttention")] * cross)]
    rows = [f"{path} T5Block", f"{path}.layer ModuleList"]
    for number, (cls, name) in enumerate(parts):
        layer = f"{path}.layer.{number}"
        own = first and not number
        bias = "{layer}.{name}.relative_attention_bias Embedding weight=buckets,heads" if own else ""
        rows += [f"{layer} {cls}", fill(_T5_ATTENTION, {"bias": bias, "layer": layer, "name": name})]
    layer = f"{path}.layer.{len(parts)}"
    return [*rows, f"{layer} T5LayerFF", fill(_T5_FEED_FORWARD, {"dense": dense, "layer": layer})]


FAMILIES: dict[str, Callable[[Config, str], Template | None]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "bert": _bert,
    "t5": _t5,
}

CLASSES = {
    "llama": ("LlamaForCausalLM",),
    "mistral": ("MistralForCausalLM",),
    "mixtral": ("MixtralForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "gpt2": ("GPT2LMHeadModel",),
    "bert": ("BertForMaskedLM", "BertModel"),
    "t5": ("T5ForConditionalGeneration",),
}
"""The classes that there are templates for."""
