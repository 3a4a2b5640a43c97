"""Published configurations and numbers of parameters of the catalogue's models, family by family.

Owns the data of `tools.model_files`: each model's repository, the number of parameters that its weights come to there,
and the keys in which its configuration differs from the defaults of its class in Transformers. That the two agree to
the last parameter is what makes either believable, and a model that does not agree is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """A model as its authors published it: the configuration, and the parameters that it must come to."""

    about: str
    parameters: int
    config: Mapping[str, Any]
    buffers: int = 0
    """Of the published number, what Transformers holds as buffers."""
    unloaded: int = 0
    """Of the published number, what Transformers does not load: a part for predicting several tokens."""
    stored: int | None = None
    """The bytes of the files of a quantised model, by their published index."""
    source: str = ""
    """The repository whose weights have this number of parameters."""


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }  # fmt: skip


def _decoder(model_type: str, cls: str, vocabulary: int, context: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type, "architectures": [f"{cls}ForCausalLM"], "vocab_size": vocabulary,
        "max_position_embeddings": context, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": None, **more,
    }  # fmt: skip


_ENCODER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def _encoder(model_type: str, cls: str, vocabulary: int, sizes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [cls],
        "vocab_size": vocabulary,
        "dtype": "float32",
        **sizes,
        **more,
    }


def _llamas() -> Iterator[tuple[str, Published]]:
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    large = _decoder(
        "llama", "Llama", 128256, 131072, rope_parameters=rope | {"factor": 8.0}, **_sizes(8192, 28672, 80, 64, 8)
    )
    yield "llama-3.2-3b", Published(
        "Llama 3.2 3B, a decoder with tied embeddings, bfloat16", 3_212_749_824,
        _decoder("llama", "Llama", 128256, 131072, head_dim=128, tie_word_embeddings=True, rope_parameters=rope,
                 **_sizes(3072, 8192, 28, 24, 8)),
        source="meta-llama/Llama-3.2-3B",
    )  # fmt: skip
    yield (
        "llama-3.3-70b",
        Published(
            "Llama 3.3 70B, a decoder, bfloat16", 70_553_706_496, large, source="meta-llama/Llama-3.3-70B-Instruct"
        ),
    )
    scout = {"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"], "dtype": "bfloat16"}
    text = {
        "model_type": "llama4_text", "vocab_size": 202048, **_sizes(5120, 8192, 48, 40, 8), "head_dim": 128,
        "intermediate_size_mlp": 16384, "num_experts_per_tok": 1, "dtype": "bfloat16", "pad_token_id": None,
        "attention_chunk_size": 8192, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "model_type": "llama4_vision_model", "hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16,
        "intermediate_size": 5632, "vision_output_dim": 4096, "image_size": 336, "patch_size": 14,
        "projector_input_dim": 4096, "projector_output_dim": 4096,
    }  # fmt: skip
    yield "llama-4-scout", Published(
        "Llama 4 Scout, a vision tower before a mixture of 16 experts of which one runs for a token, bfloat16",
        108_641_793_536,
        {**scout, "vision_config": vision, "text_config": {
            **text, "num_local_experts": 16, "interleave_moe_layer_step": 1, "max_position_embeddings": 10485760}},
        source="meta-llama/Llama-4-Scout-17B-16E-Instruct",
    )  # fmt: skip
    yield "smollm2-135m", Published(
        "SmolLM2 135M, a decoder with tied embeddings, bfloat16", 134_515_008,
        _decoder("llama", "Llama", 49152, 8192, tie_word_embeddings=True, **_sizes(576, 1536, 30, 9, 3)),
        source="HuggingFaceTB/SmolLM2-135M",
    )  # fmt: skip
    yield "smollm3-3b", Published(
        "SmolLM3 3B, a decoder with tied embeddings, bfloat16", 3_075_098_624,
        _decoder("smollm3", "SmolLM3", 128256, 65536, tie_word_embeddings=True, **_sizes(2048, 11008, 36, 16, 4)),
        source="HuggingFaceTB/SmolLM3-3B",
    )  # fmt: skip


def _qwens() -> Iterator[tuple[str, Published]]:
    for name, parameters, sizes in (
        ("7b", 7_615_616_512, _sizes(3584, 18944, 28, 28, 4)),
        ("14b", 14_770_033_664, _sizes(5120, 13824, 48, 40, 8)),
        ("32b", 32_763_876_352, _sizes(5120, 27648, 64, 40, 8)),
    ):
        about, config = (
            f"Qwen2.5 {name.upper()}, a decoder, bfloat16",
            _decoder("qwen2", "Qwen2", 152064, 131072, **sizes),
        )
        yield f"qwen2.5-{name}", Published(about, parameters, config, source=f"Qwen/Qwen2.5-{name.upper()}")
    for name, parameters, tied, sizes in (
        ("0.6b", 596_049_920, True, _sizes(1024, 3072, 28, 16, 8)),
        ("1.7b", 1_720_574_976, True, _sizes(2048, 6144, 28, 16, 8)),
        ("4b", 4_022_468_096, True, _sizes(2560, 9728, 36, 32, 8)),
        ("8b", 8_190_735_360, False, _sizes(4096, 12288, 36, 32, 8)),
        ("14b", 14_768_307_200, False, _sizes(5120, 17408, 40, 40, 8)),
        ("32b", 32_762_123_264, False, _sizes(5120, 25600, 64, 64, 8)),
    ):
        about = f"Qwen3 {name.upper()}, a decoder{' with tied embeddings' if tied else ''}, bfloat16"
        config = _decoder("qwen3", "Qwen3", 151936, 40960, head_dim=128, tie_word_embeddings=tied, **sizes)
        yield f"qwen3-{name}", Published(about, parameters, config, source=f"Qwen/Qwen3-{name.upper()}")
    yield "qwen3-30b-a3b", Published(
        "Qwen3 30B-A3B, a mixture of 128 experts of which eight run for a token, bfloat16", 30_532_122_624,
        _decoder("qwen3_moe", "Qwen3Moe", 151936, 40960, head_dim=128, num_experts=128, num_experts_per_tok=8,
                 moe_intermediate_size=768, decoder_sparse_step=1, **_sizes(2048, 6144, 48, 32, 4)),
        source="Qwen/Qwen3-30B-A3B",
    )  # fmt: skip
    embedder = _decoder("qwen3", "Qwen3", 151669, 32768, head_dim=128, **_sizes(1024, 3072, 28, 16, 8))
    yield "qwen3-embedding-0.6b", Published(
        "Qwen3 Embedding 0.6B, a decoder's body for embeddings, bfloat16", 595_776_512,
        embedder | {"architectures": ["Qwen3Model"]}, source="Qwen/Qwen3-Embedding-0.6B",
    )  # fmt: skip


def _mistrals() -> Iterator[tuple[str, Published]]:
    for name, title, parameters, vocabulary, context, sizes, more in (
        ("mistral-7b", "Mistral-7B-v0.3", 7_248_023_552, 32768, 32768, _sizes(4096, 14336, 32, 32, 8), {}),
        ("mistral-nemo-12b", "Mistral-Nemo-Instruct-2407", 12_247_782_400, 131072, 131072,
         _sizes(5120, 14336, 40, 32, 8), {"head_dim": 128}),
        ("mistral-small-24b", "Mistral-Small-24B-Base-2501", 23_572_403_200, 131072, 32768,
         _sizes(5120, 32768, 40, 32, 8), {"head_dim": 128}),
        ("mistral-large-123b", "Mistral-Large-Instruct-2407", 122_610_069_504, 32768, 131072,
         _sizes(12288, 28672, 88, 96, 8), {}),
    ):  # fmt: skip
        config = _decoder("mistral", "Mistral", vocabulary, context, sliding_window=None, **sizes, **more)
        yield name, Published(f"{title}, a decoder, bfloat16", parameters, config, source=f"mistralai/{title}")


def _gemmas() -> Iterator[tuple[str, Published]]:
    yield "gemma-2-27b", Published(
        "Gemma 2 27B, a decoder with tied embeddings, every other layer of sliding attention, bfloat16", 27_227_128_320,
        _decoder("gemma2", "Gemma2", 256000, 8192, head_dim=128, sliding_window=4096, tie_word_embeddings=True,
                 **_sizes(4608, 36864, 46, 32, 16)),
        source="google/gemma-2-27b",
    )  # fmt: skip
    yield "gemma-3-1b", Published(
        "Gemma 3 1B, a decoder with tied embeddings, five layers of six of sliding attention, bfloat16", 999_885_952,
        _decoder("gemma3_text", "Gemma3", 262144, 32768, head_dim=256, sliding_window=512, tie_word_embeddings=True,
                 **_sizes(1152, 6912, 26, 4, 1)),
        source="google/gemma-3-1b-it",
    )  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 896, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    for name, parameters, head, sizes in (
        ("4b", 4_300_079_472, 256, _sizes(2560, 10240, 34, 8, 4)),
        ("12b", 12_187_325_040, 256, _sizes(3840, 15360, 48, 16, 8)),
        ("27b", 27_432_406_640, 128, _sizes(5376, 21504, 62, 32, 16)),
    ):
        text = {
            "model_type": "gemma3_text", "vocab_size": 262208, "head_dim": head, "sliding_window": 1024,
            "max_position_embeddings": 131072, **sizes,
        }  # fmt: skip
        yield f"gemma-3-{name}", Published(
            f"Gemma 3 {name.upper()}, a vision tower before a decoder, five of six layers with a window, bfloat16",
            parameters,
            {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "dtype": "bfloat16",
             "mm_tokens_per_image": 256, "text_config": text, "vision_config": vision},
            source=f"google/gemma-3-{name}-it",
        )  # fmt: skip


_MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
FLOAT8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
"""How DeepSeek and those who follow it publish their weights."""


def _glms() -> Iterator[tuple[str, Published]]:
    yield "glm-4-9b", Published(
        "GLM-4 9B, a decoder, bfloat16", 9_400_279_040,
        _decoder("glm4", "Glm4", 151552, 32768, head_dim=128, **_sizes(4096, 13696, 40, 32, 2)),
        source="THUDM/GLM-4-9B-0414",
    )  # fmt: skip
    # The sizes of GLM-4.5 are also in the table of its report and of that on GLM-5; Air's are of its configuration.
    for name, parameters, unloaded, experts, moe, dense, norms, sizes in (
        ("4.5-air", 110_468_824_832, 3_616_573_568, 128, 1408, 1, False, _sizes(4096, 10944, 46, 96, 8)),
        ("4.5", 358_337_791_296, 5_539_962_272, 160, 1536, 3, True, _sizes(5120, 12288, 92, 96, 8)),
    ):
        yield f"glm-{name}", Published(
            f"GLM-{name.title()} without its part for predicting several tokens: a mixture of {experts} experts of "
            "which eight run for a token, bfloat16", parameters,
            _decoder("glm4_moe", "Glm4Moe", 151552, 131072, head_dim=128, **sizes, n_routed_experts=experts,
                     n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=moe, first_k_dense_replace=dense,
                     n_group=1, topk_group=1, attention_bias=True, use_qk_norm=norms, partial_rotary_factor=0.5),
            # The layer that predicts has embeddings and a head of its own.
            buffers=(sizes["num_hidden_layers"] - dense) * experts, unloaded=unloaded,
            source=f"zai-org/GLM-{name.title()}",
        )  # fmt: skip


def _others() -> Iterator[tuple[str, Published]]:
    for name, title, parameters, vocabulary, context, sizes, more in (
        ("phi-4-mini", "Phi-4-mini-instruct", 3_836_021_760, 200064, 131072, _sizes(3072, 8192, 32, 24, 8),
         {"tie_word_embeddings": True, "partial_rotary_factor": 0.75}),
        ("phi-4", "phi-4", 14_659_507_200, 100352, 16384, _sizes(5120, 17920, 40, 40, 10), {}),
    ):  # fmt: skip
        config = _decoder("phi3", "Phi3", vocabulary, context, sliding_window=None, **sizes, **more)
        yield name, Published(f"{title}, a decoder, bfloat16", parameters, config, source=f"microsoft/{title}")
    for name, parameters, stored, layers, experts in (
        ("20b", 20_914_757_184, 13_761_264_768, 24, 32),
        ("120b", 116_829_156_672, 65_248_815_744, 36, 128),
    ):
        yield f"gpt-oss-{name}", Published(
            f"gpt-oss {name}, a mixture of {experts} experts of which four run for a token, in mxfp4", parameters,
            _decoder("gpt_oss", "GptOss", 201088, 131072, num_local_experts=experts, num_experts_per_tok=4, head_dim=64,
                     sliding_window=128, **_sizes(2880, 2880, layers, 64, 8), quantization_config=_MXFP4),
            stored=stored, source=f"openai/gpt-oss-{name}",
        )  # fmt: skip
    yield "deepseek-v2-lite", Published(
        "DeepSeek-V2-Lite, a mixture of 64 experts of which six run for a token, and latent attention, bfloat16",
        15_706_484_224,
        _decoder("deepseek_v2", "DeepseekV2", 102400, 163840, **_sizes(2048, 10944, 27, 16, 16), kv_lora_rank=512,
                 q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, head_dim=64,
                 n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1408,
                 first_k_dense_replace=1, n_group=1, topk_group=1),
        source="deepseek-ai/DeepSeek-V2-Lite",
    )  # fmt: skip
    yield "kimi-k2", Published(
        "Kimi K2, a mixture of 384 experts of which eight run for a token, and latent attention, in float8",
        1_026_408_232_448,
        _decoder("deepseek_v3", "DeepseekV3", 163840, 131072, **_sizes(7168, 18432, 61, 64, 64), kv_lora_rank=512,
                 q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=384,
                 n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048, first_k_dense_replace=1,
                 n_group=1, topk_group=1, quantization_config=FLOAT8),
        buffers=60 * 384, source="moonshotai/Kimi-K2-Instruct",
    )  # fmt: skip
    yield "command-r-35b", Published(
        "Command R 35B, a decoder with tied embeddings, bfloat16", 34_980_831_232,
        _decoder("cohere", "Cohere", 256000, 131072, tie_word_embeddings=True, **_sizes(8192, 22528, 40, 64, 64)),
        source="CohereLabs/c4ai-command-r-v01",
    )  # fmt: skip
    yield "t5-small", Published(
        "T5 small, an encoder and a decoder that share their embeddings, float32", 60_506_624,
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 512,
         "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "n_positions": 512, "tie_word_embeddings": True,
         "dtype": "float32"},
        source="google-t5/t5-small",
    )  # fmt: skip


def _speech_and_images() -> Iterator[tuple[str, Published]]:
    for name, parameters, width, layers, decoders, heads, vocabulary, mels in (
        ("small", 241_734_912, 768, 12, 12, 12, 51865, 80),
        ("large-v3", 1_543_490_560, 1280, 32, 32, 20, 51866, 128),
        ("large-v3-turbo", 808_878_080, 1280, 32, 4, 20, 51866, 128),
    ):  # fmt: skip
        yield f"whisper-{name}", Published(
            f"Whisper {name}, an encoder of speech and a decoder of text, float16", parameters,
            {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "dtype": "float16",
             "vocab_size": vocabulary, "d_model": width, "num_mel_bins": mels, "encoder_layers": layers,
             "decoder_layers": decoders, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
             "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "max_source_positions": 1500,
             "max_target_positions": 448, "pad_token_id": 50256},
            source=f"openai/whisper-{name}",
        )  # fmt: skip
    for name, repository, parameters, text, vision, width in (
        ("clip-vit-b32", "clip-vit-base-patch32", 151_277_313, (512, 2048, 8), (768, 3072, 12, 12, 32), 512),
        ("clip-vit-l14", "clip-vit-large-patch14", 427_616_513, (768, 3072, 12), (1024, 4096, 24, 16, 14), 768),
    ):
        yield name, Published(
            f"CLIP {name.removeprefix('clip-').upper()}, a tower for text and one for images, float32", parameters,
            {"model_type": "clip", "architectures": ["CLIPModel"], "dtype": "float32", "projection_dim": width,
             "text_config": {"model_type": "clip_text_model", "hidden_size": text[0], "intermediate_size": text[1],
                             "num_attention_heads": text[2], "num_hidden_layers": 12, "vocab_size": 49408},
             "vision_config": {"model_type": "clip_vision_model", "hidden_size": vision[0],
                               "intermediate_size": vision[1], "num_hidden_layers": vision[2],
                               "num_attention_heads": vision[3], "patch_size": vision[4], "image_size": 224}},
            source=f"openai/{repository}",
        )  # fmt: skip


def _embedders() -> Iterator[tuple[str, Published]]:
    mini = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    bert = {"max_position_embeddings": 512, "type_vocab_size": 2}
    roberta = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    for name, about, source, parameters, config in (
        ("all-minilm-l6", "MiniLM of six layers, an encoder for embeddings", "sentence-transformers/all-MiniLM-L6-v2",
         22_713_216, _encoder("bert", "BertModel", 30522, mini, **bert)),
        ("all-mpnet-base", "MPNet base, an encoder for embeddings", "sentence-transformers/all-mpnet-base-v2",
         109_486_464, _encoder("mpnet", "MPNetModel", 30527, _ENCODER, max_position_embeddings=514)),
        ("bge-small-en", "BGE small for English, an encoder for embeddings", "BAAI/bge-small-en-v1.5",
         33_360_000, _encoder("bert", "BertModel", 30522, mini | {"num_hidden_layers": 12}, **bert)),
        ("multilingual-e5-large", "E5 large of many languages, an encoder for embeddings",
         "intfloat/multilingual-e5-large", 559_890_432,
         _encoder("xlm-roberta", "XLMRobertaModel", 250002, _LARGE, **roberta)),
        ("nomic-embed-text", "Nomic Embed, an encoder for embeddings of long texts", "nomic-ai/nomic-embed-text-v1.5",
         136_731_648, _encoder("nomic_bert", "NomicBertModel", 30528, _ENCODER, max_position_embeddings=2048)),
        ("modernbert-base", "ModernBERT base, an encoder for long texts", "answerdotai/ModernBERT-base", 149_014_272,
         _encoder("modernbert", "ModernBertModel", 50368,
                  _ENCODER | {"intermediate_size": 1152, "num_hidden_layers": 22})),
        ("distilbert-base", "DistilBERT base, an encoder", "distilbert/distilbert-base-uncased", 66_362_880,
         {"model_type": "distilbert", "architectures": ["DistilBertModel"], "dtype": "float32"}),
        ("bge-reranker-m3", "BGE reranker of many languages, an encoder that scores pairs", "BAAI/bge-reranker-v2-m3",
         567_755_777, _encoder("xlm-roberta", "XLMRobertaForSequenceClassification", 250002, _LARGE, num_labels=1,
                               **roberta | {"max_position_embeddings": 8194})),
        ("ms-marco-minilm", "MiniLM reranker of six layers, an encoder that scores pairs",
         "cross-encoder/ms-marco-MiniLM-L6-v2", 22_713_601,
         _encoder("bert", "BertForSequenceClassification", 30522, mini, num_labels=1, **bert)),
    ):  # fmt: skip
        yield name, Published(f"{about}, float32", parameters, config, source=source)


FAMILIES: dict[str, Published] = dict(
    entry
    for family in (_llamas, _qwens, _mistrals, _gemmas, _glms, _others, _speech_and_images, _embedders)
    for entry in family()
)
