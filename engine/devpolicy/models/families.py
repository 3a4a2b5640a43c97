"""Structures of common model families, from a configuration alone.

Owns templates for hosts where Transformers is not installed: what its version 5 would build, row by row. A test holds
each against the real model. Whatever a template does not know (another task head, another activation) is no match, and
the caller falls back to what the checkpoint's headers say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devpolicy.model import ModelTree, Module, Tensor
from devpolicy.models.facts import derive, dtype_of
from devpolicy.models.ranges import expand_tree

Config = Mapping[str, Any]

# A row is a path, a class, and tensors as `name=sizes`, where sizes are looked up in the family's table and `N` in a
# path counts layers. `~` marks a buffer that no checkpoint holds, with its dtype. `{C}` is the family's class prefix,
# and `{flag:…}` stands only where the configuration sets the flag.
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
MLP
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
P.{name}                                  T5Attention
P.{name}.q                                Linear weight=q,hidden
P.{name}.k                                Linear weight=q,hidden
P.{name}.v                                Linear weight=q,hidden
P.{name}.o                                Linear weight=hidden,q
BIAS
P.layer_norm                              T5LayerNorm weight=hidden
P.dropout                                 Dropout
"""
_T5_DENSE = """
P.DenseReluDense                          T5DenseActDense
P.DenseReluDense.wi                       Linear weight=inner,hidden
P.DenseReluDense.wo                       Linear weight=hidden,inner
P.DenseReluDense.dropout                  Dropout
P.DenseReluDense.act                      {act}
"""
_T5_GATED = """
P.DenseReluDense                          T5DenseGatedActDense
P.DenseReluDense.wi_0                     Linear weight=inner,hidden
P.DenseReluDense.wi_1                     Linear weight=inner,hidden
P.DenseReluDense.wo                       Linear weight=hidden,inner
P.DenseReluDense.dropout                  Dropout
P.DenseReluDense.act                      {act}
"""
_ACTIVATIONS = {
    "silu": "SiLUActivation",
    "gelu": "GELUActivation",
    "gelu_new": "NewGELUActivation",
    "relu": "ReLU",
}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one configuration makes of its family's template."""

    rows: str
    sizes: Mapping[str, int]
    words: Mapping[str, str]
    layers: int
    no_split: tuple[str, ...]
    config: Config
    """With the family's defaults, as Transformers would complete it."""
    ties: tuple[tuple[str, ...], ...] = ()
    converted: frozenset[str] = field(default_factory=frozenset)
    """Last parts of the paths of modules whose weights loading converts."""


def family_tree(config: Config) -> ModelTree | None:
    """Return the model that Transformers would build, or `None` where no template knows it.

    `config` is the content of a `config.json`.
    """
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None or not isinstance(architecture, str):
        return None
    try:
        plan = family(config, architecture)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None  # a size that the template needs is missing or no number
    if plan is None or not all(isinstance(size, int) and size > 0 for size in (*plan.sizes.values(), plan.layers)):
        return None
    return _build(plan, architecture)


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


def _build(plan: _Plan, architecture: str) -> ModelTree:
    dtype = dtype_of(plan.config) or "float32"
    entries: list[tuple[str, str, tuple[Tensor, ...]]] = [("", architecture, ())]
    layer = f"{{0..{plan.layers - 1}}}"
    for row in plan.rows.splitlines():
        path, _, rest = row.partition(" ")
        if path:
            cls, *tensors = rest.split()
            path = ".".join(layer if part == "N" else part for part in path.split("."))
            entries.append((path, cls, tuple(_tensor(text, plan.sizes, dtype) for text in tensors)))
    paths = expand_tree([path for path, _, _ in entries])
    modules = tuple(
        Module(path, entries[entry][1], entries[entry][2], path.rpartition(".")[2] not in plan.converted)
        for path, entry in paths
    )
    return ModelTree(
        name=architecture,
        modules=modules,
        ties=plan.ties,
        no_split=frozenset(plan.no_split),
        **derive(plan.config, [(module.path, module.cls) for module in modules]),
    )


def _tensor(text: str, sizes: Mapping[str, int], dtype: str) -> Tensor:
    name, _, dimensions = text.partition("=")
    shape = tuple(1 if word == "1" else sizes[word] for word in dimensions.split(","))
    name, buffer, own = name.partition("~")
    return Tensor(name, shape, own or dtype, buffer=bool(buffer), persistent=not buffer)


def _fill(rows: str, words: Mapping[str, str], flags: Mapping[str, bool] | None = None) -> str:
    for flag, on in (flags or {}).items():
        start = f"{{{flag}:"
        lines = []
        for line in rows.splitlines():
            head, found, rest = line.partition(start)
            inner, _, tail = rest.partition("}")
            lines.append(f"{head}{inner if on else ''}{tail}" if found else line)
        rows = "\n".join(lines)
    for word, text in words.items():
        rows = rows.replace(f"{{{word}}}", text)
    return rows


def _llama_like(config: Config, architecture: str, prefix: str, defaults: Mapping[str, Any]) -> _Plan | None:
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
    words = {"C": prefix, "act": _ACTIVATIONS[given.get("hidden_act", "silu")]}
    attention_bias = bool(given.get("attention_bias"))
    flags = {
        "qkv_bias": attention_bias or prefix == "Qwen2",
        "o_bias": attention_bias and prefix == "Llama",
        "mlp_bias": bool(given.get("mlp_bias")) and prefix == "Llama",
    }
    rows = _fill(_LLAMA.replace("MLP\n", (_EXPERTS if mixture else _GATED_MLP).lstrip(), 1), words, flags)
    ties = (("model.embed_tokens.weight", "lm_head.weight"),) if given.get("tie_word_embeddings") else ()
    converted = frozenset({"experts"}) if mixture else frozenset[str]()
    layers = given["num_hidden_layers"]
    return _Plan(rows, sizes, words, layers, (f"{prefix}DecoderLayer",), given, ties, converted)


def _llama(config: Config, architecture: str) -> _Plan | None:
    return _llama_like(config, architecture, "Llama", {})


def _mistral(config: Config, architecture: str) -> _Plan | None:
    return _llama_like(config, architecture, "Mistral", {"sliding_window": 4096, "num_key_value_heads": 8})


def _mixtral(config: Config, architecture: str) -> _Plan | None:
    return _llama_like(config, architecture, "Mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2})


def _qwen2(config: Config, architecture: str) -> _Plan | None:
    given = {"num_key_value_heads": 32, "max_window_layers": 28, "sliding_window": 4096, **config}
    if not given.get("use_sliding_window"):
        given["sliding_window"] = None
    elif not given.get("layer_types"):
        first = given["max_window_layers"]
        given["layer_types"] = [
            "sliding_attention" if layer >= first else "full_attention" for layer in range(given["num_hidden_layers"])
        ]
    return _llama_like(given, architecture, "Qwen2", {})


def _gpt2(config: Config, architecture: str) -> _Plan | None:
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
    return _Plan(_fill(_GPT2, words), sizes, words, given["n_layer"], ("GPT2Block",), given, ties)


def _bert(config: Config, architecture: str) -> _Plan | None:
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
    return _Plan(_fill(rows, words), sizes, words, layers, ("BertEmbeddings", "BertLayer"), given, ties)


def _t5(config: Config, architecture: str) -> _Plan | None:
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
    return _Plan(_fill("\n".join(rows), words), sizes, words, layers, ("T5Block",), given, ties)


def _t5_block(path: str, dense: str, *, cross: bool, first: bool) -> list[str]:
    """Return the rows of one block or a range of them. Only the first of a stack holds the relative positions."""
    parts = [("T5LayerSelfAttention", "SelfAttention"), *([("T5LayerCrossAttention", "EncDecAttention")] * cross)]
    rows = [f"{path} T5Block", f"{path}.layer ModuleList"]
    for number, (cls, name) in enumerate(parts):
        layer = f"{path}.layer.{number}"
        own = first and not number
        bias = f"{layer}.{name}.relative_attention_bias Embedding weight=buckets,heads\n" if own else ""
        text = _T5_ATTENTION.replace("{name}", name).replace("BIAS\n", bias).replace("P.", f"{layer}.")
        rows += [f"{layer} {cls}", *text.strip().splitlines()]
    layer = f"{path}.layer.{len(parts)}"
    tail = f"{layer}.layer_norm T5LayerNorm weight=hidden\n{layer}.dropout Dropout"
    return [*rows, f"{layer} T5LayerFF", *dense.replace("P.", f"{layer}.").strip().splitlines(), *tail.splitlines()]


_FAMILIES: dict[str, Callable[[Config, str], _Plan | None]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "bert": _bert,
    "t5": _t5,
}
