"""Make tiny models with random weights in `models/`, so that the example runs offline."""

from pathlib import Path

import transformers as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *("the", "is", "in", "we", "at", "where", "warehouse", "berlin", "nine")]
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}


def tokenizer():
    """Return a tokenizer of a few words."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
    )
    made.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return made


def make(folder: Path) -> None:
    """Write the three models of the pipeline."""
    tf.set_seed(0)
    bert = tf.BertConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=128)
    made = {
        "bert": tf.BertModel(bert),
        "ranker": tf.BertForSequenceClassification(tf.BertConfig(**{**bert.to_diff_dict(), "num_labels": 1})),
        "llm": tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, vocab_size=len(WORDS))),
    }
    # Random weights may say special tokens alone, which are left out of the text: the answer would be empty.
    made["llm"].generation_config.suppress_tokens = [number for number, word in enumerate(WORDS) if word[0] == "["]
    for name, network in made.items():
        network.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    modules = [Transformer(str(folder / "bert")), Pooling(SIZES["hidden_size"])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "embedder"))


if __name__ == "__main__":
    make(Path("models"))
