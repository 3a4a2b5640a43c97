"""The schemes: how each is recognised, which modules it converts, and what its weights take.

Owns the rows, which are facts about the formats and hold for whatever reads them. Bytes are those of memory once the
model is loaded; they were compared with what the libraries hold, in the versions that `docs/versions.md` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from devpolicy._core.loading.quantization import Scheme, Setting, Settings, Weight
from devpolicy._core.loading.skips import MOST_NAMES, is_readable


def _ceil(number: int, size: int) -> int:
    return -(-number // size)


# The bytes of one matrix.


def _int8(weight: Weight, _: Settings) -> int:
    """A byte for each element, and a scale in float32 for each row."""
    return weight.elements + 4 * weight.rows


def _four_bits(weight: Weight, settings: Settings) -> int:
    """Packed pairs, a scale for each 64 elements, and the table of the sixteen values."""
    packed, blocks = _ceil(weight.elements, 2), _ceil(weight.elements, 64)
    if not settings["bnb_4bit_use_double_quant"]:
        return packed + 4 * blocks + 64
    # Scales in 8 bits, for each 256 of them one of their own, with their table, and their offset.
    double = packed + blocks + 4 * _ceil(blocks, 256) + 1024 + 64 + 4
    # A CPU's first forward turns them into two bytes each.
    return max(double, packed + 2 * blocks + 64) if weight.kind == "cpu" else double


def _float8(weight: Weight, settings: Settings) -> int:
    """A byte for each element, a scale for each block of the matrix, and a static scheme's scale of its inputs."""
    block: tuple[int, int] | None = settings.get("weight_block_size", BLOCK)
    scales = _ceil(weight.rows, block[0]) * _ceil(weight.columns, block[1]) if block else 1
    size = 1 if block and settings["scale_fmt"] == "ue8m0" else 4
    return weight.elements + size * scales + (4 if settings["activation_scheme"] == "static" else 0)


def _mxfp4(weight: Weight, _: Settings) -> int:
    """Packed pairs, and a byte of scale for each 32 elements."""
    return weight.elements // 2 + weight.elements // 32


def _awq(weight: Weight, settings: Settings) -> int:
    """Packed weights; for each group of inputs packed zeros and scales in float16."""
    bits, group = int(settings["bits"]), int(settings["group_size"])
    groups = _ceil(weight.columns, group) if group > 0 else 1
    return weight.elements * bits // 8 + groups * weight.rows * bits // 8 + 2 * groups * weight.rows


def _gptq(weight: Weight, settings: Settings) -> int:
    """The same, the group of each input, and the shifts of a kernel in torch."""
    return _awq(weight, settings) + 4 * weight.columns + 64


def _torchao_int8(weight: Weight, _: Settings) -> int:
    """A byte for each element; for each row a scale in float32 and a zero in a byte."""
    return weight.elements + 5 * weight.rows


def _quanto(bits: int) -> Callable[[Weight, Settings], int]:
    def bytes_of(weight: Weight, _: Settings) -> int:
        """Scales in the model's dtype: one for each row, below 8 bits with a shift for each group; and two more."""
        if bits == 8:
            return weight.elements + weight.size * weight.rows + 8
        group = next((size for size in (128, 96, 64, 32) if weight.columns % size == 0), weight.columns)
        groups = weight.columns // group if weight.columns > 128 else 1
        return weight.elements * bits // 8 + 2 * weight.size * groups * weight.rows + 8

    return bytes_of


def _modelopt_fp8(weight: Weight, _: Settings) -> int:
    return weight.elements + 8


def _modelopt_nvfp4(weight: Weight, _: Settings) -> int:
    return weight.elements // 2 + weight.elements // 16 + 8


def _fbgemm(weight: Weight, _: Settings) -> int:
    """A byte for each element, a scale in float32 for each row, and the bound of its inputs."""
    return weight.elements + 4 * weight.rows + 4


def _nvfp4(weight: Weight, _: Settings) -> int:
    """Packed pairs, a byte of scale for each 16 elements, which are there in two orders, and a scale for all."""
    swizzled = 128 * _ceil(weight.rows, 128) * 4 * _ceil(_ceil(weight.columns, 16), 4)
    return weight.elements // 2 + weight.elements // 16 + swizzled + 4


def _hqq(weight: Weight, settings: Settings) -> int:
    """Packed weights; a scale and a zero in the model's dtype for each group."""
    bits, group = int(settings[_HQQ_BITS]), int(settings[_HQQ_GROUP])
    return weight.elements * bits // 8 + 2 * weight.size * _ceil(weight.elements, group)


def _dense(weight: Weight, _: Settings) -> int:
    return weight.elements * weight.size


def _compressed(weight: Weight, settings: Settings) -> int:
    """Packed weights with a scale in the model's dtype for each group, where the groups of modules are alike."""
    bits, group = (settings.get(f"{GROUP_OF_ALL}.weights.{key}") for key in ("num_bits", "group_size"))
    if not isinstance(bits, int):
        return _dense(weight, settings)
    groups = _ceil(weight.columns, group) if isinstance(group, int) and group > 0 else 1
    return weight.elements * bits // 8 + groups * weight.rows * weight.size


# What configurations may say.

BLOCK = (128, 128)
"""The blocks of fp8 that Transformers takes where a configuration gives none."""

_HQQ_BITS, _HQQ_GROUP = (f"quant_config.weight_quant_params.{key}" for key in ("nbits", "group_size"))


def _one_of(default: Any, *values: Any) -> Setting:
    return Setting(
        default,
        lambda value: any(value == one and type(value) is type(one) for one in values),
        f"one of {', '.join(map(str, values))}",
    )


_FLAG = Setting(False, lambda value: isinstance(value, bool), "true or false")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24


def _is_block(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_size, value)))


def _is_names(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) <= MOST_NAMES and all(map(is_readable, value)))


def _is_lists(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and all(one is not None and _is_names(one) for one in value))


def _is_wildcards(value: object) -> bool:
    """Whether a list holds names or wildcards of shells, which are quick to match."""
    return value is None or (
        isinstance(value, tuple)
        and len(value) <= MOST_NAMES
        and all(isinstance(one, str) and is_readable(one.replace("*", "").replace("?", "") or "x") for one in value)
        and all(one.count("*") <= 4 for one in value)
    )


_WILDCARDS = Setting(None, _is_wildcards, f"a list of at most {MOST_NAMES} names or wildcards")
_NAMES = Setting(None, _is_names, f"a list of at most {MOST_NAMES} names")
_GROUP = Setting(128, lambda value: value == -1 or _is_size(value), "a size, or -1 for the whole row")
_NOTHING = Setting(None, lambda value: value is None, "")
_EMPTY = Setting(None, lambda value: value is None or value == (), "")

_BITSANDBYTES = {
    "load_in_8bit": _FLAG,
    "load_in_4bit": _FLAG,
    "bnb_4bit_quant_type": _one_of("fp4", "fp4", "nf4"),
    "bnb_4bit_use_double_quant": _FLAG,
    "llm_int8_has_fp16_weight": _one_of(False, False),
    "llm_int8_skip_modules": _NAMES,
}
_COMPUTE = "bnb_4bit_compute_dtype"
_FOUR_BITS = {**_BITSANDBYTES, _COMPUTE: Setting("float32", lambda value: isinstance(value, str), "a dtype")}
_FLOAT8 = {
    "weight_block_size": Setting(BLOCK, _is_block, "two sizes, or null", consumers_differ=True),
    "scale_fmt": _one_of("float", "float", "ue8m0"),
    "activation_scheme": _one_of("dynamic", "dynamic", "static"),
    "expert_dtype": _one_of("fp8", "fp8"),
    "modules_to_convert": _EMPTY,
    "modules_to_not_convert": _NAMES,
    "ignored_layers": _NAMES,
}
_PACKED = {
    "bits": _one_of(None, 2, 3, 4, 8),
    "group_size": _GROUP,
}
_SCALES = (".weight_scale", ".weight_scale_2", ".input_scale")
_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_TORCHAO = {
    "quant_type.default._type": Setting(None, lambda value: isinstance(value, str), "the name of a class of torchao"),
    "quant_type.default._data.granularity._type": _one_of("PerRow", "PerRow"),
    "quant_type.default._data.group_size": _NOTHING,
    "include_input_output_embeddings": _one_of(False, False),
    "untie_embedding_weights": _one_of(False, False),
    "modules_to_not_convert": _NAMES,
}
_MODELOPT = {
    "quant_algo": Setting(None, lambda value: isinstance(value, str), "the name of an algorithm"),
    "group_size": _one_of(None, None, 16),
    "exclude_modules": _WILDCARDS,
    "ignore": _WILDCARDS,
}
GROUP_OF_ALL = "config_groups.all"
"""The groups of compressed-tensors, where they are alike."""
_SAID = Setting(None, lambda _: True, "")
_COMPRESSED = {
    f"{GROUP_OF_ALL}.targets": _NAMES,
    **{
        f"{GROUP_OF_ALL}.weights.{key}": _SAID
        for key in ("type", "num_bits", "strategy", "group_size", "symmetric", "block_structure", "actorder")
    },
    f"{GROUP_OF_ALL}.input_activations.num_bits": _SAID,
    "format": _SAID,
    "ignore": _NAMES,
}
"""What engines ask of compressed-tensors, as `recognition` brings it into one group."""
_WHOLE_LINEAR = ("Linear", "NonDynamicallyQuantizableLinear")
"""`torch.nn.Linear` and what is made of it, for quantisers that ask for an instance."""


def _bitsandbytes(name: str, double: bool) -> Scheme:
    when = {"load_in_4bit": True, "bnb_4bit_quant_type": name, "bnb_4bit_use_double_quant": double}
    return Scheme(
        f"{name}-double" if double else name,
        "bitsandbytes",
        _four_bits,
        _FOUR_BITS,
        when,
        classes=("Linear", "Conv1D"),
        skips=("llm_int8_skip_modules",),
        float32=("bias",),  # from the first forward on, which puts it into the dtype of the products
        float32_when={_COMPUTE: "float32"},
    )


def _torchao(name: str, cls: str, bytes_of: Callable[[Weight, Settings], int]) -> Scheme:
    when = {"quant_type.default._type": cls}
    return Scheme(name, "torchao", bytes_of, _TORCHAO, when, skips_by="parameter")


def _by_name(rows: Iterable[Scheme]) -> Mapping[str, Scheme]:
    return {row.name: row for row in rows}


SCHEMES = _by_name(
    (
        Scheme(
            "int8",
            "bitsandbytes",
            _int8,
            _BITSANDBYTES,
            {"load_in_8bit": True, "load_in_4bit": False},
            classes=("Linear", "Conv1D"),
            skips=("llm_int8_skip_modules",),
        ),
        *(_bitsandbytes(name, double) for name in ("nf4", "fp4") for double in (False, True)),
        Scheme(
            "fp8",
            "fp8",
            _float8,
            _FLOAT8,
            skips=("modules_to_not_convert", "ignored_layers"),
            skips_renamed=True,
            experts=True,
        ),
        Scheme(
            "mxfp8",
            "mxfp8",
            _float8,
            _FLOAT8,
            skips=("modules_to_not_convert", "ignored_layers"),
            skips_renamed=True,
            experts=True,
        ),
        Scheme(
            "mxfp4",
            "mxfp4",
            _mxfp4,
            {"modules_to_not_convert": _NAMES},
            classes=("GptOssExperts",),
            float32=("gate_up_proj_bias", "down_proj_bias"),
        ),
        Scheme(
            "compressed-fp8",
            "compressed-tensors",
            _int8,
            _COMPRESSED,
            {f"{GROUP_OF_ALL}.weights.type": "float", f"{GROUP_OF_ALL}.weights.num_bits": 8},
            classes=_WHOLE_LINEAR,
            skips=(),
            default_skips="always",
            only=(f"{GROUP_OF_ALL}.targets", "ignore"),
            plain_too=True,
            packs_experts=True,
            packed_as=_SCALES,
        ),
        Scheme(
            "compressed",
            "compressed-tensors",
            _compressed,
            _COMPRESSED,
            modules_known=False,
            plain_too=True,
            packs_experts=True,
        ),
        Scheme("gguf", "gguf", _dense, modules_known=False, in_config=False),
        Scheme("fbgemm-fp8", "fbgemm_fp8", _fbgemm, {"modules_to_not_convert": _NAMES}, float32=("bias",)),
        Scheme("nvfp4", "nvfp4", _nvfp4, {"modules_to_not_convert": _NAMES}),
        Scheme(
            "hqq",
            "hqq",
            _hqq,
            {_HQQ_BITS: _one_of(4, 1, 2, 3, 4, 8), _HQQ_GROUP: Setting(64, _is_size, "a size"), "skip_modules": _NAMES},
            skips=("skip_modules",),
        ),
        Scheme(
            "gptq",
            "gptq",
            _gptq,
            {
                **_PACKED,
                "checkpoint_format": _one_of("gptq", "gptq", "gptq_v2"),
                "dynamic": _EMPTY,
                "block_name_to_quantize": Setting(
                    None, lambda value: value is None or isinstance(value, str), "the name of a module"
                ),
                "modules_in_block_to_quantize": Setting(None, _is_lists, "lists of names"),
                "sym": _one_of(True, True, False),
                "desc_act": _FLAG,
                "lm_head": _FLAG,
            },
            classes=("Linear", "Conv1D"),
            skips=(),
            default_skips="never",
            blocks=True,
            packs_experts=True,
            packed_as=_PARTS,
        ),
        Scheme(
            "awq",
            "awq",
            _awq,
            {
                **_PACKED,
                "bits": _one_of(4, 4),
                "version": Setting("gemm", lambda value: str(value).lower() == "gemm", "gemm"),
                "zero_point": _one_of(True, True, False),
                "dynamic": _EMPTY,
                "lm_head": _FLAG,
                "modules_to_not_convert": _NAMES,
            },
            classes=_WHOLE_LINEAR,
            default_skips="always",
            packs_experts=True,
            packed_as=_PARTS,
        ),
        _torchao("torchao-int8", "Int8WeightOnlyConfig", _torchao_int8),
        _torchao("torchao-float8", "Float8WeightOnlyConfig", _int8),
        *(
            Scheme(
                f"quanto-{word}",
                "quanto",
                _quanto(bits),
                {
                    "weights": _one_of("int8", "int8", "float8", "int4", "int2"),
                    "activations": _NOTHING,
                    "modules_to_not_convert": _NAMES,
                },
                {"weights": word},
                classes=_WHOLE_LINEAR,
            )
            for word, bits in (("int8", 8), ("float8", 8), ("int4", 4), ("int2", 2))
        ),
        *(
            Scheme(
                f"modelopt-{word}",
                "modelopt",
                bytes_of,
                _MODELOPT,
                {"quant_algo": word.upper()},
                skips=("exclude_modules", "ignore"),
                skips_by="anywhere",
                packs_experts=True,
                packed_as=_SCALES,
            )
            for word, bytes_of in (("fp8", _modelopt_fp8), ("nvfp4", _modelopt_nvfp4))
        ),
    )
)
"""Every scheme by its name: the word of `[loading] quantization`, where it can be made on load."""
