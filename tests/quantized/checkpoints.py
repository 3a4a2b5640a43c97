"""Tiny real checkpoints of every quantised layout: made by the library that owns it, or tensor by tensor.

A Llama of 21 linear modules in its blocks, in bfloat16, and for mxfp4 a gpt-oss. `make` writes one under its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = {
    "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "num_local_experts": 4, "num_experts_per_tok": 2,
    "dtype": "bfloat16",
}  # fmt: skip

Tensors = dict[str, Any]


def full(folder: Path) -> Path:
    """Write the Llama that is not quantised."""
    if not folder.exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**LLAMA)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint of a name into `folder`, and return its path."""
    made = folder / name
    if not made.exists():
        MAKERS[name](folder, made)
    return made


def _write(made: Path, config: dict[str, Any], tensors: Tensors, quantization: dict[str, Any]) -> None:
    made.mkdir()
    save_file({key: one.contiguous() for key, one in tensors.items()}, made / "model.safetensors", {"format": "pt"})
    (made / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


def _table(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return table


def _by_transformers(configuration: Callable[[], Any]) -> Callable[[Path, Path], None]:
    """Return what quantises the full model while it loads, and saves it."""

    def maker(folder: Path, made: Path) -> None:
        source = full(folder / "full")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, quantization_config=configuration(), device_map={"": "cpu"}
        )
        model.save_pretrained(made)

    return maker


def _bitsandbytes(**given: Any) -> Callable[[Path, Path], None]:
    return _by_transformers(lambda: transformers.BitsAndBytesConfig(**given))


def _torchao(name: str) -> Callable[[Path, Path], None]:
    def configuration() -> Any:
        from torchao import quantization

        return transformers.TorchAoConfig(getattr(quantization, name)())

    return _by_transformers(configuration)


def _float8(block: tuple[int, int] | None) -> Callable[[Path, Path], None]:
    def maker(folder: Path, made: Path) -> None:
        source = full(folder / "full")
        tensors: Tensors = {}
        for key, weight in load_file(source / "model.safetensors").items():
            tensors[key] = weight
            if "proj" in key:
                rows, columns = block or weight.shape
                grid = [-(-weight.shape[0] // rows), -(-weight.shape[1] // columns)]
                tensors[key] = weight.to(torch.float8_e4m3fn)
                tensors[f"{key}_scale_inv"] = torch.ones(grid) if block else torch.tensor(1.0)
        said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
        _write(made, _table(source), tensors, said)

    return maker


def _packed(method: str, more: dict[str, Any]) -> Callable[[Path, Path], None]:
    """Return what writes GPTQ's or AWQ's layout: four bits, groups of 128."""

    def maker(folder: Path, made: Path) -> None:
        source = full(folder / "full")
        tensors: Tensors = {}
        for key, weight in load_file(source / "model.safetensors").items():
            if "proj" not in key:
                tensors[key] = weight.half()
                continue
            (rows, columns), module = weight.shape, key.removesuffix(".weight")
            groups = -(-columns // 128)
            packed = (columns // 8, rows) if method == "gptq" else (columns, rows // 8)
            tensors[f"{module}.qweight"] = torch.zeros(packed, dtype=torch.int32)
            tensors[f"{module}.qzeros"] = torch.zeros(groups, rows // 8, dtype=torch.int32)
            tensors[f"{module}.scales"] = torch.zeros(groups, rows, dtype=torch.float16)
            if method == "gptq":
                tensors[f"{module}.g_idx"] = (torch.arange(columns) // 128).to(torch.int32)
        said = {"quant_method": method, "bits": 4, "group_size": 128, **more}
        _write(made, _table(source) | {"dtype": "float16"}, tensors, said)

    return maker


def _mxfp4(folder: Path, made: Path) -> None:
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**GPT_OSS)).to(torch.bfloat16)
    model.save_pretrained(folder / "gpt-oss")
    tensors: Tensors = {}
    for key, weight in load_file(folder / "gpt-oss" / "model.safetensors").items():
        tensors[key] = weight
        if key.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensors.pop(key).shape
            blocks = (experts, outputs, inputs // 32, 16)
            tensors[f"{key}_blocks"] = torch.randint(0, 255, blocks, dtype=torch.uint8)
            tensors[f"{key}_scales"] = torch.randint(120, 126, blocks[:3], dtype=torch.uint8)
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    _write(made, _table(folder / "gpt-oss"), tensors, {"quant_method": "mxfp4", "modules_to_not_convert": left})


def _compressed(preset: str) -> Callable[[Path, Path], None]:
    def maker(folder: Path, made: Path) -> None:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            QuantizationStatus,
            apply_quantization_config,
            preset_name_to_scheme,
        )

        model = transformers.AutoModelForCausalLM.from_pretrained(full(folder / "full"))
        groups = {"group_0": preset_name_to_scheme(preset, ["Linear"])}
        apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
        for module in model.modules():
            if getattr(module, "quantization_scheme", None) is not None:
                module.weight_scale.data.fill_(1.0)
                if hasattr(module, "weight_global_scale"):
                    module.weight_global_scale.data.fill_(1.0)
                module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        made.mkdir()
        tensors = {key: one.contiguous() for key, one in model.state_dict().items()}
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        model.config.save_pretrained(made)
        compressor.update_config(str(made))

    return maker


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "int8": _bitsandbytes(load_in_8bit=True),
    "nf4": _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": _bitsandbytes(load_in_4bit=True),
    "nf4-double": _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "fp8": _float8((128, 128)),
    "fp8-whole": _float8(None),
    "mxfp4": _mxfp4,
    "compressed-int4": _compressed("W4A16"),
    "compressed-fp8": _compressed("FP8_DYNAMIC"),
    "compressed-nvfp4": _compressed("NVFP4A16"),
    "torchao-int8": _torchao("Int8WeightOnlyConfig"),
    "torchao-float8": _torchao("Float8WeightOnlyConfig"),
    "gptq": _packed("gptq", {"sym": True, "desc_act": False, "damp_percent": 0.1, "checkpoint_format": "gptq"}),
    "awq": _packed("awq", {"zero_point": True, "version": "gemm"}),
}

LIBRARIES = {
    "bitsandbytes": ("int8", "nf4", "fp4", "nf4-double"),
    "compressed_tensors": ("compressed-int4", "compressed-fp8", "compressed-nvfp4"),
    "torchao": ("torchao-int8", "torchao-float8"),
}
"""What makes and loads which of them; the others are written by hand."""
