"""Tiny checkpoints for Haystack's components, made on the spot from configuration classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "berlin", "acme", ".", "1"]
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
        mask_token="[MASK]", eos_token="[SEP]", model_max_length=64,
    )  # fmt: skip
    made.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return made


def make(folder: Path) -> None:
    """Write one folder for each kind of model."""
    import transformers as tf

    tf.set_seed(0)
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


def sentences(folder: Path) -> None:
    """Write `sentences`: the BERT of the same folder with pooling, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:  # before 6
        from sentence_transformers.models import Pooling, Transformer

    modules = [Transformer(str(folder / "bert")), Pooling(SIZES["hidden_size"])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "sentences"))


def spacy_entities(folder: Path) -> None:
    """Write `spacy`: a pipeline with an untrained entity recogniser."""
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("ner").add_label("ORG")
    pipeline.initialize()
    pipeline.to_disk(folder / "spacy")


def onnx_files(folder: Path) -> None:
    """Write `onnx/KIND`: a table of embeddings for each kind of model that fastembed runs, as its own files have it."""
    import json

    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {
        "dense": (384, "model_optimized.onnx"),
        "sparse": (len(VOCABULARY), "model.onnx"),
        "late": (128, "model.onnx"),
        "pair": (1, "onnx/model.onnx"),
    }
    for kind, (columns, file) in kinds.items():
        values = numpy.random.default_rng(0).normal(size=(len(VOCABULARY), columns)).astype("float32")
        nodes, shape = [helper.make_node("Gather", ["table", "input_ids"], ["each"])], ["batch", "length", columns]
        if kind == "pair":  # one score for a pair of texts
            nodes.append(helper.make_node("ReduceMean", ["each"], ["mean"], axes=[1], keepdims=0))
            shape = ["batch", columns]
        told = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ]
        answer = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, shape)
        graph = helper.make_graph(nodes, kind, told, [answer], [numpy_helper.from_array(values, "table")])
        path = folder / "onnx" / kind / file
        path.parent.mkdir(parents=True)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        words = tokenizer()
        words.save_pretrained(folder / "onnx" / kind)
        (folder / "onnx" / kind / "config.json").write_text(json.dumps({"pad_token_id": 0}), encoding="utf-8")
        (folder / "onnx" / kind / "special_tokens_map.json").write_text(
            json.dumps(words.special_tokens_map), encoding="utf-8"
        )


def funasr_model(folder: Path) -> None:
    """Write `funasr`: a SenseVoice, the kind that its component takes by default, as FunASR's own folders have it."""
    import json

    import torch
    from funasr import AutoModel

    config = {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 2},
        "frontend": "WavFrontend",
        "frontend_conf": {"fs": 16000, "n_mels": 20, "lfr_m": 7, "lfr_n": 6},
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {},
        "ncpu": 1,
    }
    words = ["<blank>", "<s>", "</s>", "<unk>", *VOCABULARY]
    network, _ = AutoModel.build_model(**{**config, "tokenizer_conf": {"token_list": words}}, device="cpu")
    (folder / "funasr").mkdir()
    torch.save(network.state_dict(), folder / "funasr" / "model.pt")
    for name, value in (("config.yaml", config), ("tokens.json", words)):
        (folder / "funasr" / name).write_text(json.dumps(value), encoding="utf-8")


def sound() -> bytes:
    """Return half a second of a tone, as a file."""
    import io
    import math
    import struct
    import wave

    with io.BytesIO() as file:
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 6))) for n in range(8000)))
        return file.getvalue()


def whisper_file(folder: Path) -> str:
    """Write a checkpoint of openai-whisper, and return its address, which holds its digest as theirs do."""
    from dataclasses import asdict
    from hashlib import sha256

    import torch
    from whisper.model import ModelDimensions, Whisper

    sizes = ModelDimensions(80, 1500, 24, 6, 4, 51865, 448, 24, 6, 4)  # layers and heads of `tiny`
    torch.save({"dims": asdict(sizes), "model_state_dict": Whisper(sizes).state_dict()}, folder / "tiny.pt")
    digest = sha256((folder / "tiny.pt").read_bytes()).hexdigest()
    (folder / digest).mkdir(exist_ok=True)
    return (folder / "tiny.pt").rename(folder / digest / "tiny.pt").as_uri()
