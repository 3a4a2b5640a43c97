"""Tiny checkpoints for Haystack's components, made on the spot from configuration classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "berlin", "acme", "."]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    made.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return made


def make(folder: Path) -> None:
    """Write one folder for each kind of model."""
    import transformers as tf

    words = tokenizer()
    bert = {**SIZES, "vocab_size": len(VOCABULARY), "max_position_embeddings": 64}
    back = {label: number for number, label in LABELS.items()}
    made = {
        "bert": tf.BertModel(tf.BertConfig(**bert)),
        "masked": tf.BertForMaskedLM(tf.BertConfig(**bert)),
        "cross": tf.BertForSequenceClassification(tf.BertConfig(**bert, num_labels=1)),
        "entailment": tf.BertForSequenceClassification(tf.BertConfig(**bert, id2label=LABELS, label2id=back)),
        "entities": tf.BertForTokenClassification(tf.BertConfig(**bert, id2label={0: "O", 1: "B-PER"})),
        "answers": tf.BertForQuestionAnswering(tf.BertConfig(**bert)),
        "llama": tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, vocab_size=len(VOCABULARY))),
    }
    for name, network in made.items():
        network.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    sentences(folder)


def sentences(folder: Path) -> None:
    """Write `sentences`: the BERT of the same folder with pooling, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    modules = [Transformer(str(folder / "bert")), Pooling(SIZES["hidden_size"])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "sentences"))


def spacy_entities(folder: Path) -> None:
    """Write `spacy`: a pipeline with an untrained entity recogniser."""
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("ner").add_label("ORG")
    pipeline.initialize()
    pipeline.to_disk(folder / "spacy")
