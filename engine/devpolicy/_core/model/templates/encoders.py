"""Templates of encoders that are not built like BERT: DistilBERT, ModernBERT, Nomic's.

Owns their rows, and the sizes that a configuration gives them.
"""

from __future__ import annotations

from devpolicy._core.model.architecture_template import Config, below, fill, layers
from devpolicy._core.model.templates.bert import ANSWERS, BERT_EMBEDDINGS, LABELS, MASKED, POOLER
from devpolicy._core.model.templates.family import ACTIVATIONS, Body, Family, Head, rotary

_DISTILBERT_LAYER = """
                                    TransformerBlock
attention                           DistilBertSelfAttention
attention.q_lin                     Linear weight=hidden,hidden bias=hidden
attention.k_lin                     Linear weight=hidden,hidden bias=hidden
attention.v_lin                     Linear weight=hidden,hidden bias=hidden
attention.out_lin                   Linear weight=hidden,hidden bias=hidden
attention.dropout                   Dropout
sa_layer_norm                       LayerNorm weight=hidden bias=hidden
ffn                                 FFN
ffn.dropout                         Dropout
ffn.lin1                            Linear weight=inner,hidden bias=inner
ffn.lin2                            Linear weight=hidden,inner bias=hidden
ffn.activation                      {act}
output_layer_norm                   LayerNorm weight=hidden bias=hidden
"""
_DISTILBERT_EMBEDDINGS = """
embeddings                          Embeddings position_ids~int64=1,positions
embeddings.word_embeddings          Embedding weight=vocab,hidden
embeddings.position_embeddings      Embedding weight=positions,hidden
embeddings.LayerNorm                LayerNorm weight=hidden bias=hidden
embeddings.dropout                  Dropout
transformer                         Transformer
"""
_MODERNBERT_EMBEDDINGS = """
embeddings                          ModernBertEmbeddings
embeddings.tok_embeddings           Embedding weight=vocab,hidden
embeddings.norm                     LayerNorm weight=hidden {norm_bias:bias=hidden}
embeddings.drop                     Dropout
"""
_MODERNBERT_LAYER = """
                                    ModernBertEncoderLayer
attn_norm                           {norm}
attn                                ModernBertAttention
attn.Wqkv                           Linear weight=hidden3,hidden {attention_bias:bias=hidden3}
attn.Wo                             Linear weight=hidden,hidden {attention_bias:bias=hidden}
attn.out_drop                       {out_drop}
mlp_norm                            LayerNorm weight=hidden {norm_bias:bias=hidden}
mlp                                 ModernBertMLP
mlp.Wi                              Linear weight=twice,hidden {mlp_bias:bias=twice}
mlp.act                             {act}
mlp.drop                            Dropout
mlp.Wo                              Linear weight=hidden,inner {mlp_bias:bias=hidden}
"""
_MODERNBERT_HEAD = """
head                                ModernBertPredictionHead
head.dense                          Linear weight=hidden,hidden {classifier_bias}
head.act                            {head_act}
head.norm                           LayerNorm weight=hidden {norm_bias}
"""
_NOMIC_LAYER = """
                                    NomicBertLayer
post_attention_layernorm            LayerNorm weight=hidden bias=hidden
post_attention_dropout              Dropout
post_mlp_dropout                    Dropout
mlp                                 NomicBertMLP
mlp.gate_proj                       Linear weight=inner,hidden
mlp.up_proj                         Linear weight=inner,hidden
mlp.down_proj                       Linear weight=hidden,inner
mlp.act_fn                          {act}
self_attn                           NomicBertAttention
self_attn.q_proj                    Linear sliced weight=q,hidden
self_attn.k_proj                    Linear sliced weight=q,hidden
self_attn.v_proj                    Linear sliced weight=q,hidden
self_attn.o_proj                    Linear weight=hidden,q
post_mlp_layernorm                  LayerNorm weight=hidden bias=hidden
"""


def _distilbert(config: Config) -> Body:
    act = ACTIVATIONS[config["activation"]]
    listed = layers("layer", [""] * config["n_layers"], {"": fill(_DISTILBERT_LAYER, {"act": act})})
    sizes = {
        "vocab": config["vocab_size"], "hidden": config["dim"], "inner": config["hidden_dim"],
        "positions": config["max_position_embeddings"],
    }  # fmt: skip
    rows = _DISTILBERT_EMBEDDINGS + below("transformer", listed)
    return Body(rows, sizes, (), config, words={"act": act})


def _modernbert(config: Config) -> Body:
    every = config.get("global_attn_every_n_layers") or 3
    count = config["num_hidden_layers"]
    types = config.get("layer_types") or [
        "sliding_attention" if layer % every else "full_attention" for layer in range(count)
    ]
    flags = {name: bool(config.get(name)) for name in ("norm_bias", "attention_bias", "mlp_bias")}
    words = {
        "act": ACTIVATIONS[config["hidden_activation"]],
        "out_drop": "Dropout" if config.get("attention_dropout") else "Identity",
    }
    norm = "LayerNorm weight=hidden {norm_bias:bias=hidden}"
    each = {
        kind: fill(_MODERNBERT_LAYER, {"norm": text, **words}, flags)
        for kind, text in (("first", "Identity"), ("", norm))
    }
    kinds = ["first", *[""] * (count - 1)]
    named = [f"{kind}_{name}~float32=rope" for kind in sorted(set(types)) for name in ("inv_freq", "original_inv_freq")]
    rows = [
        fill(_MODERNBERT_EMBEDDINGS, {}, flags), layers("layers", kinds, each), f"final_norm {fill(norm, {}, flags)}",
        f"rotary_emb ModernBertRotaryEmbedding {' '.join(named)}",
    ]  # fmt: skip
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    sizes = {
        "vocab": config["vocab_size"], "hidden": hidden, "hidden3": 3 * hidden, "inner": inner, "twice": 2 * inner,
        "rope": rotary(config, hidden // config["num_attention_heads"]),
    }  # fmt: skip
    biases = {
        "head_act": ACTIVATIONS[config["classifier_activation"]],
        "classifier_bias": "bias=hidden" if config.get("classifier_bias") else "",
        "norm_bias": "bias=hidden" if flags["norm_bias"] else "",
        "decoder_bias": "bias=vocab" if config.get("decoder_bias") else "",
    }
    no_split = ("ModernBertEmbeddings", "ModernBertEncoderLayer")
    return Body("\n".join(rows), sizes, no_split, {**config, "layer_types": types}, words=biases)


def _nomic(config: Config) -> Body:
    act = ACTIVATIONS[config["hidden_act"]]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    sizes = {
        "vocab": config["vocab_size"], "hidden": config["hidden_size"], "inner": config["intermediate_size"],
        "positions": config["max_position_embeddings"], "types": config["type_vocab_size"],
        "q": config["num_attention_heads"] * head_dim, "rope": rotary(config, config.get("head_dim") or head_dim),
    }  # fmt: skip
    embeddings = "\n".join(row for row in BERT_EMBEDDINGS.splitlines() if "position_embeddings" not in row)
    listed = layers("layers", [""] * config["num_hidden_layers"], {"": fill(_NOMIC_LAYER, {"act": act})})
    turned = "rotary_emb NomicBertRotaryEmbedding inv_freq~float32=rope original_inv_freq~float32=rope"
    rows = "\n".join((fill(embeddings, {"C": "NomicBert"}), "{pooler}", turned, listed))
    no_split = ("NomicBertEmbeddings", "NomicBertLayer")
    pooler = fill(POOLER, {"C": "NomicBert"})
    return Body(rows, sizes, no_split, config, pooler=pooler, words={"act": act})


_DISTILBERT_HEADS = {
    "DistilBertForMaskedLM": Head(
        "activation {act}\n@\nvocab_transform Linear weight=hidden,hidden bias=hidden\n"
        "vocab_layer_norm LayerNorm weight=hidden bias=hidden\nvocab_projector Linear weight=vocab,hidden bias=vocab\n"
        "mlm_loss_fct CrossEntropyLoss",
        (("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),),
        "vocab_projector",
    ),
    "DistilBertForSequenceClassification": Head(
        "@\npre_classifier Linear weight=hidden,hidden bias=hidden\n"
        "classifier Linear weight=labels,hidden bias=labels\ndropout Dropout"
    ),
    "DistilBertForTokenClassification": Head(f"@\n{LABELS}"),
    "DistilBertForQuestionAnswering": Head(f"@\n{ANSWERS}\ndropout Dropout"),
}
_MODERN_LABELS = f"@\n{_MODERNBERT_HEAD}\ndrop Dropout\nclassifier Linear weight=labels,hidden bias=labels"
_MODERNBERT_HEADS = {
    "ModernBertForMaskedLM": Head(
        f"@\n{_MODERNBERT_HEAD}\ndecoder Linear weight=vocab,hidden {{decoder_bias}}",
        (("model.embeddings.tok_embeddings.weight", "decoder.weight"),),
        "decoder",
    ),
    "ModernBertForSequenceClassification": Head(_MODERN_LABELS),
    "ModernBertForTokenClassification": Head(_MODERN_LABELS),
    "ModernBertForQuestionAnswering": Head(_MODERN_LABELS),
}
_NOMIC_HEADS = {
    "NomicBertForMaskedLM": Head(
        f"@\ncls NomicBertOnlyMLMHead\n{fill(MASKED, {'C': 'NomicBert', 'norm': 'layer_norm'})}",
        (
            ("nomic_bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
            ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ),
        "cls.predictions.decoder",
    ),
    "NomicBertForSequenceClassification": Head(f"@+\n{LABELS}"),
    "NomicBertForTokenClassification": Head(f"@\n{LABELS}"),
}

ENCODERS = {
    "distilbert": Family("DistilBertModel", _distilbert, "distilbert", _DISTILBERT_HEADS),
    "modernbert": Family("ModernBertModel", _modernbert, "model", _MODERNBERT_HEADS),
    "nomic_bert": Family("NomicBertModel", _nomic, "nomic_bert", _NOMIC_HEADS, pools=False),
}
"""The families of this module, by model type."""
