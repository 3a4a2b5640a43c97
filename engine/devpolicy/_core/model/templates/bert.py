"""Templates of BERT and of encoders that are built like it.

Owns their rows, the sizes that a configuration gives them, and the classes of each family.
"""

from __future__ import annotations

from devpolicy._core.model.architecture_template import Config, below, fill, layers
from devpolicy._core.model.templates.family import ACTIVATIONS, Body, Family, Head

BERT_EMBEDDINGS = """
embeddings                          {C}Embeddings position_ids~int64=1,positions token_type_ids~int64=1,positions
embeddings.word_embeddings          Embedding weight=vocab,hidden
embeddings.position_embeddings      Embedding weight=positions,hidden
embeddings.token_type_embeddings    Embedding weight=types,hidden
embeddings.LayerNorm                LayerNorm weight=hidden bias=hidden
embeddings.dropout                  Dropout
"""
_ROBERTA_EMBEDDINGS = """
embeddings                          {C}Embeddings position_ids~int64=1,positions token_type_ids~int64=1,positions
embeddings.word_embeddings          Embedding weight=vocab,hidden
embeddings.token_type_embeddings    Embedding weight=types,hidden
embeddings.LayerNorm                LayerNorm weight=hidden bias=hidden
embeddings.dropout                  Dropout
embeddings.position_embeddings      Embedding weight=positions,hidden
"""
_MPNET_EMBEDDINGS = """
embeddings                          MPNetEmbeddings position_ids~int64=1,positions
embeddings.word_embeddings          Embedding weight=vocab,hidden
embeddings.position_embeddings      Embedding weight=positions,hidden
embeddings.LayerNorm                LayerNorm weight=hidden bias=hidden
embeddings.dropout                  Dropout
"""
_BERT_ATTENTION = """
attention                           {C}Attention
attention.self                      {C}SelfAttention
attention.self.query                Linear weight=hidden,hidden bias=hidden
attention.self.key                  Linear weight=hidden,hidden bias=hidden
attention.self.value                Linear weight=hidden,hidden bias=hidden
attention.self.dropout              Dropout
attention.output                    {C}SelfOutput
attention.output.dense              Linear weight=hidden,hidden bias=hidden
attention.output.LayerNorm          LayerNorm weight=hidden bias=hidden
attention.output.dropout            Dropout
"""
_MPNET_ATTENTION = """
attention                           MPNetAttention
attention.attn                      MPNetSelfAttention
attention.attn.q                    Linear weight=hidden,hidden bias=hidden
attention.attn.k                    Linear weight=hidden,hidden bias=hidden
attention.attn.v                    Linear weight=hidden,hidden bias=hidden
attention.attn.o                    Linear weight=hidden,hidden bias=hidden
attention.attn.dropout              Dropout
attention.LayerNorm                 LayerNorm weight=hidden bias=hidden
attention.dropout                   Dropout
"""
_BERT_LAYER = """
                                    {C}Layer
{attention}
intermediate                        {C}Intermediate
intermediate.dense                  Linear weight=inner,hidden bias=inner
intermediate.intermediate_act_fn    {act}
output                              {C}Output
output.dense                        Linear weight=hidden,inner bias=hidden
output.LayerNorm                    LayerNorm weight=hidden bias=hidden
output.dropout                      Dropout
"""
POOLER = """
pooler                              {C}Pooler
pooler.dense                        Linear weight=hidden,hidden bias=hidden
pooler.activation                   Tanh
"""
MASKED = """
cls.predictions                     {C}LMPredictionHead bias=vocab
cls.predictions.transform           {C}PredictionHeadTransform
cls.predictions.transform.dense     Linear weight=hidden,hidden bias=hidden
cls.predictions.transform.transform_act_fn {act}
cls.predictions.transform.{norm}    LayerNorm weight=hidden bias=hidden
cls.predictions.decoder             Linear weight=vocab,hidden bias=vocab
"""
_LM_HEAD = """
lm_head                             {C}LMHead bias=vocab
lm_head.dense                       Linear weight=hidden,hidden bias=hidden
lm_head.layer_norm                  LayerNorm weight=hidden bias=hidden
lm_head.decoder                     Linear weight=vocab,hidden bias=vocab
"""
LABELS = "dropout Dropout\nclassifier Linear weight=labels,hidden bias=labels"
_CHOICE = "dropout Dropout\nclassifier Linear weight=1,hidden bias=1"
ANSWERS = "qa_outputs Linear weight=labels,hidden bias=labels"
_CLASSIFIER = """
classifier                          {C}ClassificationHead
classifier.dense                    Linear weight=hidden,hidden bias=hidden
classifier.dropout                  Dropout
classifier.out_proj                 Linear weight=labels,hidden bias=labels
"""


def _encoder(config: Config, cls: str, embeddings: str, attention: str = _BERT_ATTENTION) -> Body | None:
    """Return the body of BERT or of one that is built like it; `None` for one that is made a decoder."""
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return None
    words = {"attention": attention, "C": cls, "act": ACTIVATIONS[config["hidden_act"]]}
    each = fill(_BERT_LAYER, words)
    count = config["num_hidden_layers"]
    listed = below("encoder", layers("layer", [""] * count, {"": each}))
    rows = [fill(embeddings, words), f"encoder {cls}Encoder", listed, "{pooler}"]
    sizes = {
        "vocab": config["vocab_size"], "hidden": config["hidden_size"], "inner": config["intermediate_size"],
        "positions": config["max_position_embeddings"], "types": config.get("type_vocab_size", 1),
    }  # fmt: skip
    no_split = (f"{cls}Embeddings", f"{cls}Layer")
    return Body("\n".join(rows), sizes, no_split, config, pooler=fill(POOLER, words), words={"act": words["act"]})


def _mpnet(config: Config) -> Body | None:
    made = _encoder(config, "MPNet", _MPNET_EMBEDDINGS, _MPNET_ATTENTION)
    if made is None:
        return None
    positions = "encoder.relative_attention_bias Embedding weight=buckets,heads"
    rows = made.rows.replace("{pooler}", f"{positions}\n{{pooler}}")
    sizes = {
        **made.sizes, "buckets": config["relative_attention_num_buckets"], "heads": config["num_attention_heads"],
    }  # fmt: skip
    return Body(rows, sizes, (), config, pooler=made.pooler, words=made.words, implementation="eager")


def _bert_heads() -> dict[str, Head]:
    masked = fill(MASKED, {"C": "Bert", "norm": "LayerNorm"})
    ties = (
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    )
    next_ = "cls.seq_relationship Linear weight=2,hidden bias=2"
    return {
        "BertForMaskedLM": Head(f"@\ncls BertOnlyMLMHead\n{masked}", ties, "cls.predictions.decoder"),
        "BertForPreTraining": Head(f"@+\ncls BertPreTrainingHeads\n{masked}\n{next_}", ties, "cls.predictions.decoder"),
        "BertForNextSentencePrediction": Head(f"@+\ncls BertOnlyNSPHead\n{next_}"),
        "BertForSequenceClassification": Head(f"@+\n{LABELS}"),
        "BertForTokenClassification": Head(f"@\n{LABELS}"),
        "BertForQuestionAnswering": Head(f"@\n{ANSWERS}"),
        "BertForMultipleChoice": Head(f"@+\n{_CHOICE}"),
    }


def _roberta_heads(cls: str, base: str, *, body_last: bool = False) -> dict[str, Head]:
    """Return the classes with a head; with `body_last`, their heads are made before their body."""
    lm_head, classifier = fill(_LM_HEAD, {"C": cls}), fill(_CLASSIFIER, {"C": cls})
    ties = (
        (f"{base}.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("lm_head.bias", "lm_head.decoder.bias"),
    )
    rows = {
        "MaskedLM": lm_head,
        "SequenceClassification": classifier,
        "TokenClassification": LABELS,
        "QuestionAnswering": ANSWERS,
    }
    parts = {task: ("@", text) for task, text in rows.items()} | {"MultipleChoice": ("@+", _CHOICE)}
    heads = {task: Head("\n".join(part[::-1] if body_last else part)) for task, part in parts.items()}
    heads["MaskedLM"] = heads["MaskedLM"]._replace(ties=ties, output_embeddings="lm_head.decoder")
    return {f"{cls}For{task}": head for task, head in heads.items()}


BERTS = {
    "bert": Family("BertModel", lambda config: _encoder(config, "Bert", BERT_EMBEDDINGS), "bert", _bert_heads()),
    "roberta": Family(
        "RobertaModel",
        lambda config: _encoder(config, "Roberta", _ROBERTA_EMBEDDINGS),
        "roberta",
        _roberta_heads("Roberta", "roberta"),
    ),
    "xlm-roberta": Family(
        "XLMRobertaModel",
        lambda config: _encoder(config, "XLMRoberta", _ROBERTA_EMBEDDINGS),
        "roberta",
        _roberta_heads("XLMRoberta", "roberta", body_last=True),
    ),
    "mpnet": Family("MPNetModel", _mpnet, "mpnet", _roberta_heads("MPNet", "mpnet")),
}
"""The families of this module, by model type."""
