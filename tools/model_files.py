"""`python -m tools.model_files [FOLDER]`: write the catalogue's model files.

Owns the published configurations of the catalogue, and the published number of parameters that each must give. Needs
Transformers, and neither the network nor memory for weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.published import FAMILIES, FLOAT8, Published

from devpolicy._core.errors import ModelError
from devpolicy._core.model.config import from_config
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.shipped import shipped

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


CATALOGUE: dict[str, Published] = {
    "gpt2": Published(
        "GPT-2 small, a decoder with tied embeddings, 124 M parameters, float32",
        124_439_808,
        {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024,
            "n_embd": 768, "n_layer": 12, "n_head": 12, "dtype": "float32",
        },
        source="openai-community/gpt2",
    ),
    "bert-base": Published(
        "BERT base uncased, an encoder with its pooler, 109 M parameters, float32",
        109_482_240,
        {
            "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "max_position_embeddings": 512, "type_vocab_size": 2, "dtype": "float32",
        },
        source="google-bert/bert-base-uncased",
    ),
    "llama-3.2-1b": Published(
        "Llama 3.2 1B, a decoder with tied embeddings, bfloat16",
        1_235_814_400,
        {
            **_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
            "num_attention_heads": 32, "tie_word_embeddings": True, "rope_parameters": _llama3_rope(32.0),
        },
        source="meta-llama/Llama-3.2-1B",
    ),
    "llama-3.1-8b": Published(
        "Llama 3.1 8B, a decoder, bfloat16",
        8_030_261_248,
        {
            **_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "rope_parameters": _llama3_rope(8.0),
        },
        source="meta-llama/Llama-3.1-8B",
    ),
    "llama-3.1-70b": Published(
        "Llama 3.1 70B, a decoder, bfloat16",
        70_553_706_496,
        {
            **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "rope_parameters": _llama3_rope(8.0),
        },
        source="meta-llama/Llama-3.1-70B",
    ),
    "llama-3.1-405b": Published(
        "Llama 3.1 405B, a decoder, bfloat16",
        405_853_388_800,
        {
            **_LLAMA, "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
            "num_attention_heads": 128, "rope_parameters": _llama3_rope(8.0),
        },
        source="meta-llama/Llama-3.1-405B",
    ),
    "qwen2.5-72b": Published(
        "Qwen2.5 72B, a decoder, bfloat16",
        72_706_203_648,
        {
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 8192,
            "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "dtype": "bfloat16",
        },
        source="Qwen/Qwen2.5-72B",
    ),
    "gemma-2-9b": Published(
        "Gemma 2 9B, a decoder with tied embeddings, every other layer of sliding attention, bfloat16",
        9_241_705_984,
        {
            "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "vocab_size": 256000, "hidden_size": 3584,
            "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 256, "sliding_window": 4096, "query_pre_attn_scalar": 256, "max_position_embeddings": 8192,
            "tie_word_embeddings": True, "dtype": "bfloat16",
        },
        source="google/gemma-2-9b",
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
        source="mistralai/Mixtral-8x7B-v0.1",
    ),
    "mixtral-8x22b": Published(
        "Mixtral 8x22B, a mixture of eight experts of which two run for a token, bfloat16",
        140_620_634_112,
        {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000,
            "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 56, "num_attention_heads": 48,
            "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
            "max_position_embeddings": 65536, "dtype": "bfloat16",
        },
        source="mistralai/Mixtral-8x22B-v0.1",
    ),
    "qwen3-235b-a22b": Published(
        "Qwen3 235B-A22B, a mixture of 128 experts of which eight run for a token, bfloat16",
        235_093_634_560,
        {
            "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 151936,
            "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 94,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "decoder_sparse_step": 1, "max_position_embeddings": 40960, "dtype": "bfloat16",
        },
        source="Qwen/Qwen3-235B-A22B",
    ),
    "qwen3-next-80b-a3b": Published(
        "Qwen3-Next 80B-A3B without its part for predicting several tokens: 512 experts, and three layers of four "
        "with linear attention, bfloat16",
        79_674_391_296,
        {
            "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "vocab_size": 151936,
            "hidden_size": 2048, "intermediate_size": 5120, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 256, "num_experts": 512, "num_experts_per_tok": 10,
            "decoder_sparse_step": 1, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
            "max_position_embeddings": 262144, "dtype": "bfloat16",
        },
        source="Qwen/Qwen3-Next-80B-A3B-Instruct",
    ),
    "deepseek-v3": Published(
        "DeepSeek-V3 without its part for predicting several tokens: 256 experts of which eight run for a token, and "
        "latent attention, in float8",
        671_026_419_200,
        {
            "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 129280,
            "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
            "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1, "n_routed_experts": 256,
            "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3, "kv_lora_rank": 512,
            "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
            "max_position_embeddings": 163840, "dtype": "bfloat16", "quantization_config": FLOAT8,
        },
        buffers=58 * 256,  # what balances the routers of 58 layers
        source="deepseek-ai/DeepSeek-V3",
    ),
    "t5-11b": Published(
        "T5 11B, an encoder and a decoder that share their embeddings, float32",
        11_307_321_344,
        {
            "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 1024,
            "d_kv": 128, "d_ff": 65536, "num_layers": 24, "num_heads": 128, "n_positions": 512,
            "relative_attention_num_buckets": 32, "tie_word_embeddings": True, "dtype": "float32",
        },
        source="google-t5/t5-11b",
    ),
    "bart-large": Published(
        "BART large, an encoder and a decoder that share their embeddings, float32",
        406_291_456,
        {
            "model_type": "bart", "architectures": ["BartForConditionalGeneration"], "vocab_size": 50265,
            "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
            "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
            "max_position_embeddings": 1024, "dtype": "float32",
        },
        source="facebook/bart-large",
    ),
    "bge-large-en": Published(
        "BGE large for English, an encoder for embeddings, float32",
        335_141_888,
        {
            "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 1024,
            "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "max_position_embeddings": 512, "type_vocab_size": 2, "dtype": "float32",
        },
        source="BAAI/bge-large-en-v1.5",
    ),
    "bge-m3": Published(
        "BGE-M3, an encoder for embeddings of many languages and of long texts, float32",
        567_754_752,
        {
            "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "vocab_size": 250002,
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "max_position_embeddings": 8194, "type_vocab_size": 1, "dtype": "float32",
        },
        source="BAAI/bge-m3",
    ),
    "llava-1.5-7b": Published(
        "LLaVA 1.5 7B, a vision tower before a decoder, float16",
        7_063_427_072,
        {
            "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "dtype": "float16",
            "text_config": {
                "model_type": "llama", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008,
                "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 4096,
                "dtype": "float16",
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
                "vocab_size": 32000,
            },
        },
        source="llava-hf/llava-1.5-7b-hf",
    ),
    "qwen2.5-vl-7b": Published(
        "Qwen2.5-VL 7B, a vision tower before a decoder, bfloat16",
        8_292_166_656,
        {
            "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], "dtype": "bfloat16",
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "qwen2_5_vl_text", "vocab_size": 152064, "hidden_size": 3584,
                "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                "num_key_value_heads": 4, "max_position_embeddings": 128000, "tie_word_embeddings": False,
                "dtype": "bfloat16",
            },
            "vision_config": {
                "model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
                "num_heads": 16, "out_hidden_size": 3584, "patch_size": 14, "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
        },
        source="Qwen/Qwen2.5-VL-7B-Instruct",
    ),
    **FAMILIES,
}  # fmt: skip


def tree(name: str) -> ModelTree:
    """Return a catalogue model as Transformers builds it. Raises `ModelError` for another size than is published."""
    published = CATALOGUE[name]
    built = from_config(published.config)
    if built.parameters != published.parameters - published.buffers - published.unloaded:
        counted = f"{built.parameters:,} parameters, and {published.parameters:,} are published"
        raise ModelError(f"`{name}` comes to {counted}")
    quantization = built.quantization
    if quantization is not None:
        quantization = replace(quantization, stored=published.stored)
    built = replace(built, quantization=quantization)
    return replace(built, name=name, metadata=(("about", published.about), *built.metadata))


def text(name: str) -> str:
    """Return the model file of a catalogue model."""
    published = CATALOGUE[name]
    head = f"# {published.parameters:,} parameters, as published in {published.source}.\n"
    head += "# Written by `python -m tools.model_files`.\n\n"
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
