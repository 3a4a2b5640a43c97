"""`python -m devpolicy.models.generate [FOLDER]`: write the catalogue's model files.

Owns the published configurations of the catalogue, and the published number of parameters that each must give. Needs
Transformers, and neither the network nor memory for weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devpolicy._shipped import shipped
from devpolicy.errors import ModelError
from devpolicy.model import ModelTree
from devpolicy.models.config import from_config

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "dtype": "bfloat16",
}


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@dataclass(frozen=True, slots=True)
class Published:
    """A model as its authors published it: the configuration, and the parameters that it must come to."""

    about: str
    parameters: int
    config: Mapping[str, Any]


CATALOGUE: dict[str, Published] = {
    "gpt2": Published(
        "GPT-2 small, a decoder with tied embeddings, 124 M parameters, float32",
        124_439_808,
        {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024,
            "n_embd": 768, "n_layer": 12, "n_head": 12, "dtype": "float32",
        },
    ),
    "bert-base": Published(
        "BERT base uncased, an encoder with its pooler, 109 M parameters, float32",
        109_482_240,
        {
            "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "max_position_embeddings": 512, "type_vocab_size": 2, "dtype": "float32",
        },
    ),
    "llama-3.2-1b": Published(
        "Llama 3.2 1B, a decoder with tied embeddings, bfloat16",
        1_235_814_400,
        {
            **_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
            "num_attention_heads": 32, "tie_word_embeddings": True, "rope_parameters": _llama3_rope(32.0),
        },
    ),
    "llama-3.1-8b": Published(
        "Llama 3.1 8B, a decoder, bfloat16",
        8_030_261_248,
        {
            **_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "rope_parameters": _llama3_rope(8.0),
        },
    ),
    "llama-3.1-70b": Published(
        "Llama 3.1 70B, a decoder, bfloat16",
        70_553_706_496,
        {
            **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "rope_parameters": _llama3_rope(8.0),
        },
    ),
    "mixtral-8x7b": Published(
        "Mixtral 8x7B, a mixture of eight experts of which two run for a token, bfloat16",
        46_702_792_704,
        {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000,
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
            "max_position_embeddings": 32768, "dtype": "bfloat16",
        },
    ),
    "t5-11b": Published(
        "T5 11B, an encoder and a decoder that share their embeddings, float32",
        11_307_321_344,
        {
            "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 1024,
            "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128, "n_positions": 512,
            "relative_attention_num_buckets": 32, "tie_word_embeddings": True, "dtype": "float32",
        },
    ),
}  # fmt: skip


def tree(name: str) -> ModelTree:
    """Return a catalogue model as Transformers builds it. Raises `ModelError` for another size than is published."""
    published = CATALOGUE[name]
    built = from_config(published.config)
    if built.parameters != published.parameters:
        counted = f"{built.parameters:,} parameters, and {published.parameters:,} are published"
        raise ModelError(f"`{name}` comes to {counted}")
    return replace(built, name=name, facts=(("about", published.about), *built.facts))


def text(name: str) -> str:
    """Return the model file of a catalogue model."""
    head = f"# {CATALOGUE[name].parameters:,} parameters. Written by `python -m devpolicy.models.generate`.\n\n"
    return head + tree(name).to_toml()


def main(arguments: Sequence[str]) -> int:
    """Write every model file, to `fixtures/models` of the checkout or to the folder that is given."""
    folder = Path(arguments[0]) if arguments else Path(str(shipped("fixtures"))) / "models"
    for name in CATALOGUE:
        (folder / f"{name}.toml").write_text(text(name), encoding="utf-8", newline="\n")
        print(folder / f"{name}.toml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
