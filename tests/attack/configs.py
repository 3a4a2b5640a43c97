"""Hostile configurations: what Transformers acts on, and counts of everything, at every level of them.

Owns the valid configurations that hostile ones are made of.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from tests.attack import mutations as change

CONFIGS: tuple[dict[str, Any], ...] = (
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 64, "n_head": 2,
     "vocab_size": 99},
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 99,
     "torch_dtype": "bfloat16"},
    {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 99},
    {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 4,
     "vocab_size": 99},
    {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "num_layers": 2, "d_model": 64, "d_ff": 96,
     "num_heads": 4, "d_kv": 16, "vocab_size": 99},
)  # fmt: skip


LLAMA, BERT = CONFIGS[1], CONFIGS[2]
_CLIP = {"model_type": "clip_vision_model", "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32,
         "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip
NESTED: tuple[dict[str, Any], ...] = (
    {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": LLAMA,
     "vision_config": _CLIP, "image_token_index": 5},
    {"model_type": "encoder-decoder", "encoder": BERT, "decoder": {**BERT, "is_decoder": True}},
    {"model_type": "vision-encoder-decoder", "encoder": _CLIP, "decoder": {**BERT, "is_decoder": True}},
    {"model_type": "clip", "text_config": {**_CLIP, "model_type": "clip_text_model", "vocab_size": 99},
     "vision_config": _CLIP},
    {"model_type": "upernet", "backbone_config": {"model_type": "resnet", "out_features": ["stage2"]}},
    {"model_type": "rag", "question_encoder": BERT, "generator": CONFIGS[4]},
    {"model_type": "qwen2_moe", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_experts": 4,
     "num_key_value_heads": 1, "moe_intermediate_size": 16, "intermediate_size": 16, "vocab_size": 99},
    {"model_type": "deepseek_v3", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
     "n_routed_experts": 8, "moe_intermediate_size": 16, "intermediate_size": 16, "vocab_size": 99},
    {"model_type": "swin", "depths": [1, 1], "num_heads": [1, 2], "embed_dim": 8, "image_size": 32},
    {"model_type": "align_text_model", "_name_or_path": "."},
)  # fmt: skip

_CODE = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoBackbone"), "evil.Evil")
_KERNELS = ("flash_attention_2", "flash_attention_3", "flex_attention", "paged|sdpa", "kernels-community/evil@a:f",
            "org/evil", "evil", "", None, 5, {"": "eager"}, {"text_config": "org/evil:f"}, ["sdpa"])  # fmt: skip
_QUANTISED = (
    None, 5, [], {}, "awq", ["gptq"], {"quant_method": None}, {"quant_method": 5}, {"quant_method": ["awq"]},
    {"quant_method": "evil", "modules_to_not_convert": {"a": 1}}, {"quant_method": "gptq", "bits": 0},
    {"quant_method": "awq", "bits": 10**30}, {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "fp8", "weight_block_size": [0, -1]}, {"quant_method": "compressed-tensors", "config_groups": []},
    {"quant_method": "mxfp4"}, {"quant_method": "torchao", "quant_type": {"default": {"_type": "os.system"}}},
    {"quant_method": {"quant_method": "awq"}}, {"load_in_8bit": "yes"},
)  # fmt: skip
_ACTED_ON: dict[str, tuple[Any, ...]] = {
    "auto_map": (_CODE, "evil.Evil", {"AutoModel": ["evil.Evil", None]}, {"AutoModel": "org/name--evil.Evil"}, 5),
    "trust_remote_code": (True, "yes", 1),
    "attn_implementation": _KERNELS,
    "_attn_implementation": _KERNELS,
    "_attn_implementation_internal": _KERNELS,
    "experts_implementation": ("sonicmoe", "deepgemm", "org/evil", 5),
    "use_kernels": (True,),
    "quantization_config": _QUANTISED,
    "compression_config": _QUANTISED,
    "_name_or_path": (".", "org/name", "/etc/passwd", 5, ["a"]),
    "backbone": ("org/evil", "resnet50", "hf-hub:org/evil", "timm/evil", 5),
    "use_timm_backbone": (True, 1, "yes"),
    "use_pretrained_backbone": (True,),
    "torch_dtype": ("evil", "float128", "float64", "torch.int8", 5, ["float32"], {"": "float16"}),
    "dtype": ("evil", "bfloat16", "auto", {"text_config": "float16"}, "__class__"),
    "architectures": (["os"], [["x"]], "LlamaForCausalLM", ["AutoModel"], ["PreTrainedModel"], {"a": 1}, [], ["\0"]),
    "model_type": ("llama", "bert", "auto", "", 5, None, "align_text_model", "timm_backbone", "timm_wrapper"),
    "attribute_map": ({"auto_map": "x"}, {"vocab_size": "num_hidden_layers"}, {"hidden_size": "hidden_size"}, 5),
    "rope_parameters": ({"rope_type": "evil"}, {"rope_type": "longrope", "short_factor": [1] * 9_999}, 5, {"a": {}}),
    "rope_scaling": ({"type": "yarn", "factor": 0}, {"rope_type": "llama3", "factor": 1e308}, "linear"),
    "layer_types": (["full_attention"] * 10_000, ["evil"], "full_attention", [{}], [None] * 3),
    "id2label": ({str(number): "x" for number in range(20_000)}, [], {"a": {}}),
    "sub_configs": ({"text_config": "evil.Evil"}, 5),
    "tie_word_embeddings": (True, False, "yes"),
    "to_dict": (5,), "__class__": ("x",), "self": (1,), "config": ({}, 5), "dim": (0, 10**9),
}  # fmt: skip
_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers", "num_attention_heads"),
    *("num_experts", "n_routed_experts", "num_local_experts", "vocab_size", "hidden_size", "intermediate_size"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "image_size", "patch_size", "num_channels"),
    *("depths", "hidden_sizes", "type_vocab_size", "moe_intermediate_size", "num_experts_per_tok", "sliding_window"),
)
_NUMBERS = (
    *(0, 1, -1, 3, 4_000, 10_000, 10_001, 2**16, 2**20, 2**26, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 1e9, 1e308),
    *(float("nan"), float("inf"), True, None, "5", "10**9", [], [1] * 4_000, [10_000, 10_000], {"a": 1}),
)


def hostile(random: Random) -> Any:
    """Return a configuration with some of what is acted on, or counted, at any level of it."""
    made = copy.deepcopy(random.choice([*CONFIGS, *NESTED, *NESTED]))
    for _ in range(random.choice([1, 1, 2, 4])):
        level = random.choice([one for one in change.holders(made) if isinstance(one, dict)] or [{}])
        if random.random() < 0.5:
            key = random.choice(sorted(_ACTED_ON))
            level[key] = copy.deepcopy(random.choice(_ACTED_ON[key]))
        else:
            counted = sorted(key for key, value in level.items() if isinstance(value, int | list))
            level[random.choice([*counted, *counted, *_COUNTS])] = copy.deepcopy(random.choice(_NUMBERS))
    return change.tree(made, random) if random.random() < 0.4 else made
