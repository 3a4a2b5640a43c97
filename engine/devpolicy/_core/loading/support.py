"""What Transformers does with each scheme.

Owns the rows of one consumer: facts about Transformers 5 and the libraries that it calls, in the versions that
`docs/versions.md` names. Another consumer has a table of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from devpolicy._core.loading.quantization import DTYPE, Condition, Package, SchemeSupport, Settings

_NOWHERE = frozenset[str]()
_CPU = frozenset({"cpu"})
_ANYWHERE = frozenset({"cpu", "disk"})

_BITSANDBYTES = SchemeSupport(
    made=True,
    kept=Condition(dict.fromkeys(("cuda", "cpu", "xpu", "npu", "hpu", "mps"))),
    beside=_NOWHERE,
    beside_made=_ANYWHERE,
    whole_beside=True,
    packages=(Package("bitsandbytes", ">=0.46.1"),),
    making_beside={"llm_int8_enable_fp32_cpu_offload": True},
    making_takes=3,
    runs_tied=False,
    because="Transformers loads bitsandbytes' weights on accelerators only, or a whole model on the CPU",
)


def _bitsandbytes(**making: Any) -> SchemeSupport:
    return replace(_BITSANDBYTES, making={"quant_method": "bitsandbytes", **making})


def _keep_float8(settings: Settings) -> dict[str, Any]:
    # Loading takes the list from here too, and without one would fall back to its defaults.
    names = settings["modules_to_not_convert"] or settings["ignored_layers"]
    listed = {"modules_to_not_convert": list(names)} if names is not None else {}
    return {"quant_method": settings["quant_method"], "dequantize": False, **listed}


def _no_blocks(settings: Settings) -> str:
    if "weight_block_size" in settings or settings["activation_scheme"] != "static":
        return ""
    return "it gives no `weight_block_size`: Transformers takes blocks of 128 then, and would not read its scales"


def _quantised_head(settings: Settings) -> str:
    return "its `lm_head` is quantised, which Transformers would make anew" if settings["lm_head"] else ""


_FLOAT8 = SchemeSupport(
    refuses=_no_blocks,
    made=True,
    kept=Condition({"cuda": (8, 9), "xpu": None}),
    otherwise="dequantized",
    packages=(Package("kernels"),),
    keeping=_keep_float8,
    dequantizing={"quant_method": "fp8", "dequantize": True},
    making={"quant_method": "fp8"},
    making_takes=14,
    dequantizing_takes=8,
    because="Transformers makes fp8 of a checkpoint on accelerators only",
)
_ONE_PLACE = "its packed weights are buffers, which accelerate leaves on the device that runs them"
_PACKED = SchemeSupport(
    refuses=_quantised_head,
    beside=_NOWHERE,
    packages=(Package("gptqmodel", ">=1.4.3"), Package("optimum", ">=1.24.0")),
    because=_ONE_PLACE,
)


def _torchao(cls: str) -> SchemeSupport:
    return SchemeSupport(
        made=True,
        beside=_CPU,
        packages=(Package("torchao", ">=0.15.0"),),
        making={"quant_method": "torchao", "quant_type": {"default": {"_type": cls, "_data": {}, "_version": 2}}},
        making_takes=14,
        because="Transformers keeps no part of a torchao checkpoint on the disk",
        because_made="Transformers would make it on the accelerator that is current, whether it is planned or not",
    )


def _quanto(word: str) -> SchemeSupport:
    return SchemeSupport(
        stored=False,
        made=True,
        packages=(Package("optimum-quanto", ">=0.2.6"),),
        making={"quant_method": "quanto", "weights": word},
        making_takes=14,
        because="Transformers makes quanto's weights on accelerators only, or a whole model on the CPU",
    )


TRANSFORMERS: Mapping[str, SchemeSupport] = {
    "int8": _bitsandbytes(load_in_8bit=True),
    **{
        f"{name}-double" if double else name: _bitsandbytes(
            load_in_4bit=True,
            bnb_4bit_quant_type=name,
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=DTYPE,  # float32 if nobody says it, which is slow
        )
        for name in ("nf4", "fp4")
        for double in (False, True)
    },
    "fp8": _FLOAT8,
    "mxfp8": SchemeSupport(
        kept=_FLOAT8.kept,
        otherwise="dequantized",
        packages=_FLOAT8.packages,
        keeping=_keep_float8,
        dequantizing={"quant_method": "mxfp8", "dequantize": True},
        dequantizing_takes=8,
    ),
    "mxfp4": SchemeSupport(
        made=True,
        kept=Condition({"cuda": (7, 5), "xpu": None}, (Package("triton", ">=3.4.0"), Package("kernels", ">=0.18.2"))),
        otherwise="dequantized",
        keeping=lambda _: {"quant_method": "mxfp4", "dequantize": False},
        dequantizing={"quant_method": "mxfp4", "dequantize": True},
        dequantizing_takes=4,
        making={"quant_method": "mxfp4"},
        because_made="no mxfp4 was seen made beside accelerators",
    ),
    # Left to itself, compressed-tensors decompresses on the first forward, and fails there on several devices.
    "compressed": SchemeSupport(
        kept=None,
        otherwise="dequantized",
        packages=(Package("compressed-tensors", ">=0.15.0"),),
        dequantizing={"quant_method": "compressed-tensors", "dequantize": True},
        dequantizing_takes=20,
    ),
    # A kernel of the hub keeps the blocks of some files; it is not seen here, and nothing is fetched for a plan.
    "gguf": SchemeSupport(
        kept=None,
        otherwise="dequantized",
        beside_dequantized=_CPU,
        packages=(Package("gguf", ">=0.10.0"),),
        because="Transformers keeps no part of a GGUF file on the disk",
        dequantizing={"quant_method": "gguf", "dequantize": True},
    ),
    "compressed-fp8": SchemeSupport(
        kept=Condition({"cuda": (8, 9), "xpu": None}),
        otherwise="dequantized",
        beside=_NOWHERE,
        several=False,
        packages=(Package("compressed-tensors", ">=0.15.0"),),
        because="compressed-tensors removes the hooks by which accelerate moves weights and inputs",
        keeping=lambda _: {"quant_method": "compressed-tensors", "use_optimized_inference": True},
        dequantizing_takes=4,
        dequantizing={"quant_method": "compressed-tensors", "dequantize": True},
    ),
    "gptq": _PACKED,
    "awq": replace(_PACKED, packages=_PACKED.packages[:1]),
    "torchao-int8": _torchao("Int8WeightOnlyConfig"),
    "torchao-float8": _torchao("Float8WeightOnlyConfig"),
    **{f"quanto-{word}": _quanto(word) for word in ("int8", "float8", "int4", "int2")},
}
"""The rows by the scheme's name. A scheme without a row is refused: of ModelOpt's, Transformers would read the packed
numbers as weights; HQQ and stored NVFP4 it cannot load; and fbgemm's was not seen, which needs a GPU."""
