"""Tiny configurations of every family that has a template: a plain one, and changes that alter what is built."""

DECODER = {
    "hidden_size": 96, "intermediate_size": 112, "num_attention_heads": 6, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 77, "head_dim": 22, "max_position_embeddings": 65, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXTURE = DECODER | {
    "moe_intermediate_size": 56, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "num_local_experts": 10,
}  # fmt: skip
SHARED = {key: value for key, value in MIXTURE.items() if key != "num_local_experts"} | {
    "n_routed_experts": 10, "n_shared_experts": 3, "first_k_dense_replace": 1,
}  # fmt: skip
LATENT = {key: value for key, value in SHARED.items() if key != "head_dim"} | {
    "kv_lora_rank": 34, "q_lora_rank": 38, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 14,
}  # fmt: skip
ENCODER = {
    "hidden_size": 96, "intermediate_size": 112, "num_attention_heads": 6, "num_hidden_layers": 3, "vocab_size": 77,
    "max_position_embeddings": 65, "pad_token_id": 0, "type_vocab_size": 3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TEXT = {key: value for key, value in ENCODER.items() if key != "type_vocab_size"} | {"projection_dim": 51}
VISION = {
    "hidden_size": 60, "intermediate_size": 114, "num_attention_heads": 6, "num_hidden_layers": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 51,
}  # fmt: skip
SIGLIP = {**VISION, "model_type": "siglip_vision_model"}
GPT2 = {"n_layer": 3, "n_embd": 96, "n_head": 6, "vocab_size": 77, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 96, "d_kv": 4, "d_ff": 112, "num_layers": 3, "num_heads": 6, "vocab_size": 77}
WHISPER = {
    "vocab_size": 77, "d_model": 96, "num_mel_bins": 9, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 112, "decoder_ffn_dim": 114,
    "max_source_positions": 35, "max_target_positions": 33, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DISTILBERT = {
    "dim": 96, "hidden_dim": 112, "n_heads": 6, "n_layers": 3, "vocab_size": 77, "max_position_embeddings": 65,
}  # fmt: skip

_BIASES = {"attention_bias": True, "mlp_bias": True, "dtype": "float16"}
_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
_LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}, "tie_word_embeddings": False, "dtype": "float16"}
_HALF = {"partial_rotary_factor": 0.25, "num_key_value_heads": 3, "torch_dtype": "bfloat16"}

CONFIGS = {
    "llama": (DECODER, [_BIASES, {"tie_word_embeddings": True, "head_dim": None, "num_key_value_heads": None}]),
    "mistral": (DECODER, [{"sliding_window": 8, "dtype": "bfloat16"}, {"sliding_window": None, "head_dim": None}]),
    "qwen2": (DECODER, [_WINDOW, {"tie_word_embeddings": True, "num_key_value_heads": 6}]),
    "qwen3": (DECODER, [_WINDOW | _BIASES, {"tie_word_embeddings": True, "head_dim": 16}]),
    "phi3": (DECODER, [_HALF, {"tie_word_embeddings": True, "sliding_window": 8}]),
    "gemma2": (DECODER, [_BIASES | {"sliding_window": 8}, {"layer_types": ["full_attention"] * 3}]),
    "gemma3_text": (DECODER, [_BIASES | {"sliding_window_pattern": 2}, {"tie_word_embeddings": False}]),
    "glm": (DECODER, [_HALF, {"attention_bias": False, "tie_word_embeddings": True}]),
    "glm4": (DECODER, [_HALF, {"attention_bias": True, "num_hidden_layers": 1}]),
    "mixtral": (MIXTURE, [{"dtype": "bfloat16", "sliding_window": 8}, {"num_local_experts": 4}]),
    "qwen3_moe": (MIXTURE, [{"mlp_only_layers": [1], **_BIASES}, {"decoder_sparse_step": 2, "num_experts": 6}]),
    "gpt_oss": (MIXTURE, [{"dtype": "float16"}, {"attention_bias": False, "sliding_window": 8}]),
    "deepseek_v2": (LATENT, [{"q_lora_rank": None, **_BIASES}, {"first_k_dense_replace": 0}]),
    "deepseek_v3": (LATENT, [{"q_lora_rank": None, **_BIASES}, {"first_k_dense_replace": 3}]),
    "glm4_moe": (SHARED, [{"use_qk_norm": True, "attention_bias": True}, _HALF]),
    "glm4_moe_lite": (LATENT, [{"q_lora_rank": None}, {"mlp_layer_types": ["sparse", "dense", "sparse"]}]),
    "bert": (ENCODER, [_LABELS, {"hidden_act": "relu", "num_hidden_layers": 1}]),
    "roberta": (ENCODER, [_LABELS, {"hidden_act": "gelu_new", "type_vocab_size": 1}]),
    "xlm-roberta": (ENCODER, [_LABELS, {"num_labels": 1, "type_vocab_size": 1}]),
    "mpnet": (ENCODER, [_LABELS, {"relative_attention_num_buckets": 12}]),
    "distilbert": (DISTILBERT, [{"activation": "relu", "dtype": "float16"}, {"tie_word_embeddings": False}]),
    "modernbert": (ENCODER, [_LABELS | _BIASES | {"norm_bias": True}, {"global_attn_every_n_layers": 2}]),
    "nomic_bert": (ENCODER, [_LABELS, {"hidden_act": "gelu"}]),
    "gpt2": (GPT2, [{"n_inner": 40, "tie_word_embeddings": False}, {"activation_function": "relu"}]),
    "t5": (T5, [{"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu"}, {"num_layers": 1, "dtype": "float16"}]),
    "whisper": (WHISPER, [{"decoder_layers": 1, "dtype": "float16"}, {"tie_word_embeddings": False}]),
    "clip": (
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 51},
        [{"vision_config": VISION | {"patch_size": 16}}, {"text_config": {}, "dtype": "float16"}],
    ),
    "clip_text_model": (TEXT, [{"hidden_act": "gelu"}, {"dtype": "float16"}]),
    "clip_vision_model": (VISION, [{"num_channels": 1}, {"image_size": 48}]),
    "gemma3": (
        {"text_config": DECODER, "vision_config": SIGLIP, "mm_tokens_per_image": 4},
        [{"vision_config": SIGLIP | {"vision_use_head": False}}, {"text_config": DECODER | {"vocab_size": 80}}],
    ),
}
"""By model type: a configuration, and changes to it."""


def configs(model_type):
    """Return three configurations of a family, without a class."""
    base, changes = CONFIGS[model_type]
    return [{"model_type": model_type, **base, **change} for change in ({}, *changes)]
