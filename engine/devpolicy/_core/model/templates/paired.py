"""Templates of models that are an encoder and a decoder, and of GPT-2, which is like no other.

Owns their rows: of T5, Whisper and GPT-2.
"""

from __future__ import annotations

from devpolicy._core.model.architecture_template import Config, Template, below, fill, layers
from devpolicy._core.model.templates.family import ACTIVATIONS

_GPT2 = """
wte                                 Embedding weight=vocab,hidden
wpe                                 Embedding weight=positions,hidden
drop                                Dropout
{layers}
ln_f                                LayerNorm weight=hidden bias=hidden
"""
_GPT2_BLOCK = """
                                    GPT2Block
ln_1                                LayerNorm weight=hidden bias=hidden
attn                                GPT2Attention
attn.c_attn                         Conv1D weight=hidden,qkv bias=qkv
attn.c_proj                         Conv1D weight=hidden,hidden bias=hidden
attn.attn_dropout                   Dropout
attn.resid_dropout                  Dropout
ln_2                                LayerNorm weight=hidden bias=hidden
mlp                                 GPT2MLP
mlp.c_fc                            Conv1D weight=hidden,inner bias=inner
mlp.c_proj                          Conv1D weight=inner,hidden bias=hidden
mlp.act                             {act}
mlp.dropout                         Dropout
"""
_T5_ATTENTION = """
{name}                              T5Attention
{name}.q                            Linear weight=q,hidden
{name}.k                            Linear weight=q,hidden
{name}.v                            Linear weight=q,hidden
{name}.o                            Linear weight=hidden,q
{positions}
layer_norm                          T5LayerNorm weight=hidden
dropout                             Dropout
"""
_T5_DENSE = """
DenseReluDense                      T5DenseActDense
DenseReluDense.wi                   Linear weight=inner,hidden
DenseReluDense.wo                   Linear weight^float16=hidden,inner
DenseReluDense.dropout              Dropout
DenseReluDense.act                  {act}
layer_norm                          T5LayerNorm weight=hidden
dropout                             Dropout
"""
_T5_GATED = """
DenseReluDense                      T5DenseGatedActDense
DenseReluDense.wi_0                 Linear weight=inner,hidden
DenseReluDense.wi_1                 Linear weight=inner,hidden
DenseReluDense.wo                   Linear weight^float16=hidden,inner
DenseReluDense.dropout              Dropout
DenseReluDense.act                  {act}
layer_norm                          T5LayerNorm weight=hidden
dropout                             Dropout
"""
_WHISPER_ATTENTION = """
{name}                              WhisperAttention
{name}.k_proj                       Linear weight=hidden,hidden
{name}.v_proj                       Linear weight=hidden,hidden bias=hidden
{name}.q_proj                       Linear weight=hidden,hidden bias=hidden
{name}.out_proj                     Linear weight=hidden,hidden bias=hidden
"""
_WHISPER_ENCODER_LAYER = """
                                    WhisperEncoderLayer
{self}
self_attn_layer_norm                LayerNorm weight=hidden bias=hidden
activation_fn                       {act}
fc1                                 Linear weight=inner,hidden bias=inner
fc2                                 Linear weight=hidden,inner bias=hidden
final_layer_norm                    LayerNorm weight=hidden bias=hidden
"""
_WHISPER_DECODER_LAYER = """
                                    WhisperDecoderLayer
{self}
activation_fn                       {act}
self_attn_layer_norm                LayerNorm weight=hidden bias=hidden
{cross}
encoder_attn_layer_norm             LayerNorm weight=hidden bias=hidden
fc1                                 Linear weight=decoder_inner,hidden bias=decoder_inner
fc2                                 Linear weight=hidden,decoder_inner bias=hidden
final_layer_norm                    LayerNorm weight=hidden bias=hidden
"""
_WHISPER = """
encoder                             WhisperEncoder
encoder.conv1                       Conv1d weight=hidden,mels,3 bias=hidden
encoder.conv2                       Conv1d weight=hidden,hidden,3 bias=hidden
encoder.embed_positions             Embedding weight=source,hidden
{encoder}
encoder.layer_norm                  LayerNorm weight=hidden bias=hidden
decoder                             WhisperDecoder
decoder.embed_tokens                Embedding weight=vocab,hidden
decoder.embed_positions             WhisperPositionalEmbedding weight=target,hidden
{decoder}
decoder.layer_norm                  LayerNorm weight=hidden bias=hidden
"""


def _gpt2(config: Config, architecture: str) -> Template | None:
    if architecture not in ("GPT2LMHeadModel", "GPT2Model") or config.get("add_cross_attention"):
        return None
    hidden = config["n_embd"]
    sizes = {
        "vocab": config["vocab_size"], "hidden": hidden, "positions": config["n_positions"], "qkv": 3 * hidden,
        "inner": config.get("n_inner") or 4 * hidden,
    }  # fmt: skip
    each = fill(_GPT2_BLOCK, {"act": ACTIVATIONS[config["activation_function"]]})
    rows = fill(_GPT2, {"layers": layers("h", [""] * config["n_layer"], {"": each})})
    if architecture == "GPT2Model":
        return Template(rows, sizes, ("GPT2Block",), config)
    rows = f"transformer GPT2Model\n{below('transformer', rows)}\nlm_head Linear weight=vocab,hidden"
    ties = (("transformer.wte.weight", "lm_head.weight"),) if config.get("tie_word_embeddings") else ()
    return Template(rows, sizes, ("GPT2Block",), config, ties)


_T5_STACKS = {
    "T5ForConditionalGeneration": ("encoder", "decoder"),
    "T5Model": ("encoder", "decoder"),
    "T5EncoderModel": ("encoder",),
}


def _t5(config: Config, architecture: str) -> Template | None:
    stacks = _T5_STACKS.get(architecture)
    if stacks is None or config.get("is_decoder"):
        return None
    gated, _, act = str(config["feed_forward_proj"]).rpartition("-")
    act = ACTIVATIONS["gelu_new" if gated == "gated" and act == "gelu" else act]
    dense = fill(_T5_GATED if gated == "gated" else _T5_DENSE, {"act": act})
    counts = {"encoder": config["num_layers"], "decoder": config.get("num_decoder_layers") or config["num_layers"]}
    rows, tied = ["shared Embedding weight=vocab,hidden"], ["shared.weight"]
    for stack in stacks:
        kinds = ["first", *["other"] * (counts[stack] - 1)][: counts[stack]]
        blocks = {kind: _t5_block(dense, cross=stack == "decoder", first=kind == "first") for kind in set(kinds)}
        rows += [
            f"{stack} T5Stack",
            f"{stack}.embed_tokens Embedding weight=vocab,hidden",
            below(stack, layers("block", kinds, blocks)),
            f"{stack}.final_layer_norm T5LayerNorm weight=hidden",
            f"{stack}.dropout Dropout",
        ]
        tied.append(f"{stack}.embed_tokens.weight")
    if architecture == "T5ForConditionalGeneration":
        rows.append("lm_head Linear weight=vocab,hidden")
        tied.append("lm_head.weight")
    sizes = {
        "vocab": config["vocab_size"], "hidden": config["d_model"], "inner": config["d_ff"],
        "q": config["num_heads"] * config["d_kv"], "heads": config["num_heads"],
        "buckets": config["relative_attention_num_buckets"],
    }  # fmt: skip
    # Declared whatever `tie_word_embeddings` says: where a checkpoint holds another head, loading leaves it untied.
    return Template(
        "\n".join(rows), sizes, ("T5Block",), config, (tuple(tied),), takes_cache=None if "decoder" in stacks else False
    )


def _t5_block(dense: str, *, cross: bool, first: bool) -> str:
    """Return the rows of a block. Only the first of a stack holds the relative positions."""
    parts = [("T5LayerSelfAttention", "SelfAttention"), *([("T5LayerCrossAttention", "EncDecAttention")] * cross)]
    rows = ["T5Block", "layer ModuleList"]
    for number, (cls, name) in enumerate(parts):
        own = first and not number
        positions = f"{name}.relative_attention_bias Embedding weight=buckets,heads" if own else ""
        inside = fill(_T5_ATTENTION, {"name": name, "positions": positions})
        rows += [f"layer.{number} {cls}", below(f"layer.{number}", inside)]
    last = f"layer.{len(parts)}"
    return "\n".join([*rows, f"{last} T5LayerFF", below(last, dense)])


def _whisper(config: Config, architecture: str) -> Template | None:
    if architecture not in ("WhisperForConditionalGeneration", "WhisperModel"):
        return None
    words = {
        "self": fill(_WHISPER_ATTENTION, {"name": "self_attn"}),
        "cross": fill(_WHISPER_ATTENTION, {"name": "encoder_attn"}),
        "act": ACTIVATIONS[config["activation_function"]],
    }
    stacks = {
        "encoder": (config["encoder_layers"], _WHISPER_ENCODER_LAYER),
        "decoder": (config["decoder_layers"], _WHISPER_DECODER_LAYER),
    }
    listed = {
        stack: below(stack, layers("layers", [""] * count, {"": fill(rows, words)}))
        for stack, (count, rows) in stacks.items()
    }
    rows = fill(_WHISPER, listed)
    ties: tuple[tuple[str, ...], ...] = ()
    if architecture == "WhisperForConditionalGeneration":
        rows = f"model WhisperModel\n{below('model', rows)}\nproj_out Linear weight=vocab,hidden"
        if config.get("tie_word_embeddings"):
            ties = (("model.decoder.embed_tokens.weight", "proj_out.weight"),)
    sizes = {
        "vocab": config["vocab_size"], "hidden": config["d_model"], "mels": config["num_mel_bins"],
        "inner": config["encoder_ffn_dim"], "decoder_inner": config["decoder_ffn_dim"],
        "source": config["max_source_positions"], "target": config["max_target_positions"],
    }  # fmt: skip
    return Template(rows, sizes, ("WhisperEncoderLayer", "WhisperDecoderLayer"), config, ties)


PAIRED = {"gpt2": _gpt2, "t5": _t5, "whisper": _whisper}
"""The families of this module, by model type."""
PAIRED_CLASSES: dict[str, tuple[str, ...]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "t5": tuple(_T5_STACKS),
    "whisper": ("WhisperForConditionalGeneration", "WhisperModel"),
}
"""The classes that there are templates for."""
