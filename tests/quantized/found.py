"""Configurations of quantised checkpoints as tools write them, on models of several kinds, with what is planned.

`FOUND` has a row for each: the model, what its `config.json` says of the quantisation, and what becomes of it for
Transformers and for vLLM on a card of compute capability 8.9: the name of a scheme, `DEQUANTISED`, or the words of the
refusal.
"""

from __future__ import annotations

from typing import Any

DEQUANTISED = "dequantised"
_DECODER: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA = {**_DECODER, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
TIED = {**_DECODER, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 64,
        "tie_word_embeddings": True}  # fmt: skip
EXPERTS = {**_DECODER, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "head_dim": 64,
           "moe_intermediate_size": 256, "num_experts": 8, "num_experts_per_tok": 2}  # fmt: skip
GPT_OSS = {**_DECODER, "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "head_dim": 64,
           "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 256, "intermediate_size": 640,
        "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 1024}  # fmt: skip

_BNB: dict[str, Any] = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}  # fmt: skip
_INT8 = {"load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}
_GPTQ: dict[str, Any] = {
    "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "quant_method": "gptq", "damp_percent": 0.1,
    "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model",
}  # fmt: skip
_GPTQ_MODEL = {
    **_GPTQ, "checkpoint_format": "gptq", "lm_head": False, "hyb_act": False, "pack_dtype": "int32", "pack_impl": "cpu",
    "meta": {"act_group_aware": True, "quantizer": ["gptqmodel:5.0.0"], "static_groups": False, "v2": False},
}  # fmt: skip
_AWQ: dict[str, Any] = {
    "bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm",
    "zero_point": True,
}  # fmt: skip
_FP8: dict[str, Any] = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
}  # fmt: skip
_AUTO_ROUND = {
    "autoround_version": "0.5.1", "bits": 4, "data_type": "int", "group_size": 128, "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq", "sym": True, "iters": 0, "block_name_to_quantize": "model.layers",
}  # fmt: skip
_MODELOPT: dict[str, Any] = {
    "config_groups": {"group_0": {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
                                  "targets": ["Linear"]}},
    "ignore": ["lm_head"], "quant_algo": "NVFP4", "producer": {"name": "modelopt", "version": "0.33.0"},
    "quant_method": "modelopt",
}  # fmt: skip
_QUARK = {
    "quant_method": "quark", "exclude": ["lm_head"], "export": {"kv_cache_group": [], "pack_method": "order"},
    "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False}},
}  # fmt: skip
_INPUTS: dict[str, Any] = {
    "actorder": None, "block_structure": None, "dynamic": True, "group_size": None, "num_bits": 8, "observer": None,
    "observer_kwargs": {}, "strategy": "token", "symmetric": True,
}  # fmt: skip


def _group(kind: str, bits: int, strategy: str, group: int | None = None, **more: Any) -> dict[str, Any]:
    targets, inputs, stored = more.pop("targets", ["Linear"]), more.pop("inputs", None), more.pop("format", None)
    weights = {**_INPUTS, "type": kind, "num_bits": bits, "strategy": strategy, "group_size": group, "dynamic": False}
    one = {"targets": targets, "weights": {**weights, **more}, "input_activations": inputs, "output_activations": None}
    return one if stored is None else {**one, "format": stored}


def _compressed(stored: str, *groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)}, "format": stored,
        "ignore": ["lm_head"], "kv_cache_scheme": None, "quant_method": "compressed-tensors",
        "quantization_status": "compressed", "global_compression_ratio": 1.24, "version": "0.12.2",
        "sparsity_config": {}, "transform_config": {}, **more,
    }  # fmt: skip


def _torchao(cls: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "torchao", "quant_type": {"default": {"_type": cls, "_version": 2, "_data": data}},
        "quant_type_kwargs": {}, "modules_to_not_convert": None, "include_input_output_embeddings": False,
        "untie_embedding_weights": False, **more,
    }  # fmt: skip


_W4A16 = _group("int", 4, "group", 128)
_FP8_BY_TOKEN = _group("float", 8, "channel", inputs={**_INPUTS, "type": "float"})
_PACKED, _FLOATS, _NVFP4 = "pack-quantized", "float-quantized", "nvfp4-pack-quantized"
_NO_ROW = "no plan is made of them for `vllm`"
_ALIKE = "several kinds of them"


def _unknown(method: str) -> str:
    return f"no plan is made of them .*nothing here knows `{method}`"


def _kind(method: str) -> str:
    return f"no plan is made of them .*nothing here knows this kind of `{method}`"


def _both(model: dict[str, Any], said: Any, reason: str) -> tuple[dict[str, Any], Any, str, str]:
    return model, said, reason, reason


FOUND: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "bnb": (LLAMA, _BNB, "nf4-double", _NO_ROW),
    "bnb skips": (LLAMA, {**_BNB, "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]}, "nf4-double", _NO_ROW),
    "bnb storage": (LLAMA, {**_BNB, "bnb_4bit_quant_storage": "bfloat16"}, "nf4-double", _NO_ROW),
    "bnb name": (LLAMA, {**_BNB, "quant_method": "BITS_AND_BYTES"}, "nf4-double", _NO_ROW),
    "bnb int8": (LLAMA, {**_INT8, "quant_method": "bitsandbytes"}, "int8", _NO_ROW),
    "bnb old": (LLAMA, _INT8, "int8", _NO_ROW),
    "bnb encoder": (BERT, _INT8, "int8", _NO_ROW),
    "bnb tied": (TIED, {**_BNB, "llm_int8_skip_modules": ["embed_tokens", "lm_head"]}, "nf4-double", _NO_ROW),
    "bnb tied head": (TIED, {**_BNB, "llm_int8_skip_modules": ["visual"]}, "does not name `lm_head`", _NO_ROW),
    "gptq": (LLAMA, _GPTQ, "gptq", "gptq"),
    "gptq ordered": (LLAMA, {**_GPTQ, "desc_act": True}, "gptq", r"vLLM 0\.33 takes no GPTQ whose groups"),
    "gptq exllama": (
        LLAMA,
        {**_GPTQ, "exllama_config": {"version": 1}, "use_exllama": True, "modules_in_block_to_quantize": None,
         "block_name_to_quantize": None, "dataset": None, "tokenizer": None, "module_name_preceding_first_block": None},
        "gptq", "gptq",
    ),
    "gptqmodel": (LLAMA, _GPTQ_MODEL, "gptq", "gptq"),
    "gptqmodel dynamic": _both(LLAMA, {**_GPTQ_MODEL, "dynamic": {"-:.*attn.*": {}, "+:.*mlp.*": {"bits": 8}}},
                               "no plan is made where `dynamic` is given"),
    "gptqmodel no dynamic": (LLAMA, {**_GPTQ_MODEL, "dynamic": {}}, "gptq", "gptq"),
    "gptqmodel v2": (LLAMA, {**_GPTQ_MODEL, "checkpoint_format": "gptq_v2"}, "gptq", "gptq"),
    "gptqmodel int8": (LLAMA, {**_GPTQ_MODEL, "bits": 8, "group_size": -1}, "gptq", "gptq"),
    "gptqmodel 3 bits": (LLAMA, {**_GPTQ_MODEL, "bits": 3}, "gptq", r"vLLM 0\.33 takes symmetric GPTQ"),
    "gptqmodel 5 bits": _both(LLAMA, {**_GPTQ_MODEL, "bits": 5}, "no plan .*`bits` is not one of"),
    "gptqmodel head": (LLAMA, {**_GPTQ_MODEL, "lm_head": True}, "cannot load them: its `lm_head`", "no plan .*lm_head"),
    "marlin": _both(LLAMA, {**_GPTQ_MODEL, "checkpoint_format": "marlin"}, "no plan .*`checkpoint_format`"),
    "awq": (LLAMA, _AWQ, "awq", "awq"),
    "awq skips": (LLAMA, {**_AWQ, "modules_to_not_convert": ["o_proj"]}, "awq", "awq"),
    "awq fused": (LLAMA, {**_AWQ, "do_fuse": False, "exllama_config": None, "backend": "autoawq"}, "awq", "awq"),
    "awq capitals": (LLAMA, {**_AWQ, "version": "GEMM"}, "awq", "awq"),
    "awq gemv": _both(LLAMA, {**_AWQ, "version": "gemv"}, "no plan .*`version` is not gemm"),
    "awq gptqmodel": (LLAMA, {**_AWQ, "checkpoint_format": "gemm", "lm_head": False, "dynamic": None}, "awq", "awq"),
    "awq dynamic": _both(LLAMA, {**_AWQ, "dynamic": {"-:.*gate.*": {}}}, "no plan is made where `dynamic` is given"),
    "awq head": (LLAMA, {**_AWQ, "lm_head": True}, "cannot load them: its `lm_head`", "no plan .*lm_head"),
    "w4a16": (LLAMA, _compressed(_PACKED, _W4A16), DEQUANTISED, "compressed"),
    "w4a16 zeros": (LLAMA, _compressed(_PACKED, {**_W4A16, "weights": {**_W4A16["weights"], "symmetric": False}}),
                    DEQUANTISED, "compressed"),
    "w4a16 experts": (EXPERTS, _compressed(_PACKED, _group("int", 4, "group", 32), ignore=["lm_head", "re:.*gate$"]),
                      DEQUANTISED, "compressed"),
    "w8a8": (LLAMA, _compressed("int-quantized", _group("int", 8, "channel", inputs={**_INPUTS, "type": "int"})),
             DEQUANTISED, "compressed"),
    "fp8 dynamic": (LLAMA, _compressed(_FLOATS, _FP8_BY_TOKEN), "compressed-fp8", "compressed-fp8"),
    "fp8 kv cache": (LLAMA, _compressed(_FLOATS, _group("float", 8, "tensor"), kv_cache_scheme={"num_bits": 8}),
                     "compressed-fp8", "compressed-fp8"),
    "nvfp4": (LLAMA, _compressed(_NVFP4, _group("float", 4, "tensor_group", 16)), DEQUANTISED, "compressed"),
    "mxfp4 packed": (LLAMA, _compressed("mxfp4-pack-quantized", _group("float", 4, "group", 32)), DEQUANTISED,
                     "no plan .*in the format `mxfp4-pack-quantized`"),
    "mixed": (
        LLAMA,
        _compressed("mixed-precision", _group("float", 4, "tensor_group", 16, targets=["re:.*attn.*"], format=_NVFP4),
                    {**_FP8_BY_TOKEN, "targets": ["re:.*mlp.*"], "format": _FLOATS}),
        DEQUANTISED, _ALIKE,
    ),
    "sparse": (LLAMA, _compressed(_FLOATS, _FP8_BY_TOKEN, sparsity_config={"format": "sparse-24-bitmask"}), DEQUANTISED,
               "sparsity"),
    "kv cache alone": (LLAMA, _compressed("dense", kv_cache_scheme={"num_bits": 8}), DEQUANTISED, "no weights"),
    "deepseek": (EXPERTS, _FP8, "fp8", "fp8"),
    "fp8 skips": (EXPERTS, {**_FP8, "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}, "fp8", "fp8"),
    "fp8 null": (LLAMA, {**_FP8, "modules_to_not_convert": None, "ignored_layers": None}, "fp8", "fp8"),
    "fp8 ue8m0": (LLAMA, {**_FP8, "scale_fmt": "ue8m0"}, "fp8", "fp8"),
    "fp8 whole": (LLAMA, {**_FP8, "weight_block_size": None, "activation_scheme": "static"}, "fp8", "fp8"),
    "autofp8": (LLAMA, {"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8",
                        "kv_cache_scheme": "static"}, "cannot load them: it gives no `weight_block_size`", "fp8"),
    "fp4 experts": _both(EXPERTS, {**_FP8, "expert_dtype": "fp4"}, "no plan .*`expert_dtype`"),
    "mxfp8": (EXPERTS, {**_FP8, "quant_method": "mxfp8", "weight_block_size": [1, 32]}, "mxfp8", _NO_ROW),
    "gpt-oss": (GPT_OSS, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
                DEQUANTISED, "mxfp4"),
    "mxfp4 dense": (LLAMA, {"quant_method": "mxfp4"}, DEQUANTISED, "no plan .*it converts no module"),
    "auto-round": _both(LLAMA, _AUTO_ROUND, _unknown("auto-round")),
    "auto-round awq": _both(LLAMA, {**_AUTO_ROUND, "packing_format": "auto_round:auto_awq"}, _unknown("auto-round")),
    "auto-round gptq": (LLAMA, {**_AUTO_ROUND, **_GPTQ, "provider": "auto-round"}, "gptq", "gptq"),
    "hqq": _both(LLAMA, {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "axis": 1}}},
                 "no plan is made of them"),
    "eetq": _both(LLAMA, {"quant_method": "eetq", "weights": "int8"}, _unknown("eetq")),
    "aqlm": _both(LLAMA, {"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 1}, _unknown("aqlm")),
    "vptq": _both(LLAMA, {"quant_method": "vptq", "config_for_layers": {}}, _unknown("vptq")),
    "spqr": _both(LLAMA, {"quant_method": "spqr", "bits": 3, "shapes": {"a.shape": 1}}, _unknown("spqr")),
    "higgs": _both(LLAMA, {"quant_method": "higgs", "bits": 4, "p": 2}, _unknown("higgs")),
    "bitnet": _both(LLAMA, {"quant_method": "bitnet", "linear_class": "autobitlinear"}, _unknown("bitnet")),
    "quark": _both(LLAMA, _QUARK, _unknown("quark")),
    "fp_quant": _both(LLAMA, {"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, _unknown("fp_quant")),
    "sinq": _both(LLAMA, {"quant_method": "sinq", "nbits": 4}, _unknown("sinq")),
    "exl3": _both(LLAMA, {"quant_method": "exl3", "bits": 4.0, "head_bits": 6}, _unknown("exl3")),
    "fbgemm": _both(LLAMA, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "no plan is made of them"),
    "modelopt": (LLAMA, _MODELOPT, "no plan is made of them", "modelopt-nvfp4"),
    "modelopt fp8": (LLAMA, {**_MODELOPT, "quant_algo": "FP8"}, "no plan is made of them", "modelopt-fp8"),
    "modelopt nested": (
        LLAMA, {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
        "no plan is made of them", "modelopt-fp8",
    ),
    "modelopt mixed": _both(EXPERTS, {**_MODELOPT, "quant_algo": "MIXED_PRECISION"}, _kind("modelopt")),
    "quanto": (LLAMA, {"quant_method": "quanto", "weights": "int8", "activations": None}, "no plan", _NO_ROW),
    "torchao int8": (LLAMA, _torchao("Int8WeightOnlyConfig", {"group_size": None}), "torchao-int8", _NO_ROW),
    "torchao float8": (
        LLAMA, _torchao("Float8WeightOnlyConfig", {"weight_dtype": {"_data": "float8_e4m3fn", "_type": "torch.dtype"}}),
        "torchao-float8", _NO_ROW,
    ),
    "torchao dynamic": _both(LLAMA, _torchao("Float8DynamicActivationFloat8WeightConfig", {}), _kind("torchao")),
    "torchao int4": _both(LLAMA, _torchao("Int4WeightOnlyConfig", {}), _kind("torchao")),
    "torchao names": _both(LLAMA, _torchao("FqnToConfig", {"fqn_to_config": {"_default": {}}}), _kind("torchao")),
    "torchao old": _both(LLAMA, {"quant_method": "torchao", "quant_type": "int8_weight_only"}, "no plan .*`quant_type"),
    "torchao embeddings": _both(LLAMA, _torchao("Int8WeightOnlyConfig", {}, include_input_output_embeddings=True),
                                "no plan .*`include_input_output_embeddings`"),
    "mlx": _both({**LLAMA, "quantization": {"group_size": 64, "bits": 4}}, {"group_size": 64, "bits": 4}, "MLX"),
}  # fmt: skip
