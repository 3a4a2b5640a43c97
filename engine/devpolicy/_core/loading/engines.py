"""What vLLM and SGLang do with each scheme.

Owns the rows of these consumers: facts about vLLM 0.33 and SGLang 0.5 on CUDA, read from their sources. Both keep
weights packed on every card that they run a scheme on. The bytes are those after loading; where the kernel decides,
they are those of the kernel that keeps most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import lcm

from devpolicy._core.loading.quantization import (
    Condition,
    Facts,
    NotRead,
    Reading,
    Scheme,
    SchemeSupport,
    Settings,
    Weight,
)
from devpolicy._core.loading.schemes import BLOCK, GROUP_OF_ALL, SCHEMES

GROUPS = (-1, 32, 64, 128)
"""The sizes of groups that Marlin's kernels take, as `MARLIN_SUPPORTED_GROUP_SIZES` has them."""
_HEAD = "its `lm_head` is quantised"
_HALVES = frozenset({"float16", "bfloat16"})
_IN_HALF = '`workload.dtype = "float16"`'
_ADA, _HOPPER, _BLACKWELL = (8, 9), (9, 0), (10, 0)


@dataclass(frozen=True, slots=True)
class _Engine:
    """What tells the two apart."""

    name: str
    least: tuple[int, int]
    """The least compute capability of its kernels for packed integers."""
    block_kernel: tuple[int, int]
    """The least with a kernel that takes fp8 in blocks as it is stored."""
    beside: int
    """Bytes beside each packed matrix: the work space of its kernel."""
    ordered: bool
    """Whether it takes inputs in another order (`desc_act`)."""


_VLLM = _Engine("vLLM 0.33", (7, 5), _HOPPER, 0, ordered=False)
_SGLANG = _Engine("SGLang 0.5", (8, 0), _ADA, 1024, ordered=True)


def _up(number: int, size: int) -> int:
    return -(-number // size) * size


# The bytes of one matrix, as it is after loading.


def _tiled(weight: Weight) -> Weight:
    """Return a matrix as Marlin's tiles pad it: to multiples of 64 and 128, whichever way round."""
    rows, columns = weight.rows, weight.columns
    if rows % 64 == columns % 64 == 0 and (rows % 128 == 0 or columns % 128 == 0):
        return weight
    return replace(weight, rows=_up(rows, 128), columns=_up(columns, 128))


def _integers(bits: int, group: int, zeros: int, beside: int = 0, each_input: int = 0) -> Callable[..., int]:
    """Packed weights, and for each group of inputs a scale in the model's dtype, and a zero of so many bits."""

    def bytes_of(given: Weight, _: Settings) -> int:
        weight = _tiled(given)
        scales = weight.rows * (-(-weight.columns // group) if group > 0 else 1)
        packed = weight.elements * bits // 8 + scales * weight.size + scales * zeros // 8
        return packed + beside + each_input * weight.columns

    return bytes_of


def _float8(kept: int, *, blocks: bool, spread: bool) -> Callable[..., int]:
    """A byte for each element; `kept` bytes of scales for each row, or a scale for each block.

    `spread` scales of blocks are there for each row: two bytes for each 128 inputs.
    """

    def bytes_of(given: Weight, _: Settings) -> int:
        weight = _tiled(given) if spread else given
        along = _up(weight.columns, 128) // 128
        if not blocks:
            return weight.elements + kept * weight.rows + 8
        scales = weight.size * weight.rows * along if spread else 4 * along * (_up(weight.rows, 128) // 128)
        # DeepGEMM of Blackwell has a byte for each row and block, four of them together.
        return weight.elements + max(scales, _up(weight.rows, 128) * _up(along, 4) if kept else 0)

    return bytes_of


def _int8(weight: Weight, _: Settings) -> int:
    """A byte for each element; for each row a scale in float32 and the sum that zeros of inputs need."""
    return weight.elements + 8 * weight.rows + 8


def _nvfp4(given: Weight, _: Settings) -> int:
    """Packed pairs, a byte of scale for each 16 inputs in tiles of 128 by 4, and scales of the whole."""
    weight = _tiled(given)
    return weight.elements // 2 + _up(weight.rows, 128) * _up(-(-weight.columns // 16), 4) + 16


def _mxfp4(given: Weight, _: Settings) -> int:
    """Packed pairs and a byte of scale for each 32 inputs, padded as the kernel does that pads most."""
    rows, columns = _up(given.rows, 256), _up(given.columns, 128 if given.inputs_divided else 256)
    return rows * columns // 2 + rows * columns // 32


# How each scheme is read.


def _of(engine: _Engine, name: str, bytes_of: Callable[..., int], group: int = 0, block: int = 1) -> Scheme:
    """Return a scheme's row as an engine reads it: experts too, in the blocks of the language model alone.

    What is outside of these blocks is counted as it is not converted: whether it is, is the matter of each model.
    """
    inputs = max(block, group, 1) if engine is _VLLM else lcm(max(group, 1), 64, block)
    return replace(SCHEMES[name], bytes=bytes_of, experts=True, blocks=True, whole_inputs=inputs, whole_outputs=block)


def _unplanned(reason: str) -> NotRead:
    return NotRead(reason, planned=False)


def _wrong_group(group: object) -> NotRead | None:
    sizes = ", ".join(map(str, GROUPS))
    return None if group in GROUPS else _unplanned(f"its groups have {group} inputs, and Marlin takes {sizes}")


def _gptq(engine: _Engine) -> Callable[[Reading], Scheme | NotRead]:
    def read(reading: Reading) -> Scheme | NotRead:
        said = reading.settings
        bits, group = said["bits"], said["group_size"]
        if bits not in (4, 8) or not said["sym"]:
            return NotRead(f"{engine.name} takes symmetric GPTQ of 4 or 8 bits, and this is {_words(said)}")
        if said["desc_act"] and group != -1 and not engine.ordered:
            return NotRead(f"{engine.name} takes no GPTQ whose groups are in the order of activations (`desc_act`)")
        if said["lm_head"]:
            return _unplanned(_HEAD)
        if said["modules_in_block_to_quantize"] is not None and engine is _SGLANG:
            return _unplanned(f"{engine.name} does not ask for `modules_in_block_to_quantize`")
        more = {"beside": engine.beside, "each_input": 8} if engine.ordered else {}
        return _wrong_group(group) or _of(engine, "gptq", _integers(bits, group, bits, **more), group)

    return read


def _words(said: Settings) -> str:
    return f"of {said['bits']} bits{'' if said['sym'] else ', not symmetric'}"


def _awq(engine: _Engine) -> Callable[[Reading], Scheme | NotRead]:
    def read(reading: Reading) -> Scheme | NotRead:
        group, capability = reading.settings["group_size"], reading.facts.capability or (0, 0)
        if capability < engine.least and reading.dtype != "float16":
            least = ".".join(map(str, engine.least))
            reason = f"below compute capability {least} {engine.name} runs AWQ in `float16` only"
            return NotRead(reason, _IN_HALF)
        if not reading.settings["zero_point"]:
            return _unplanned("it has no zeros (`zero_point`)")
        if reading.settings["lm_head"]:
            return _unplanned(_HEAD)
        # Machete, which is Hopper's, keeps zeros as it keeps scales.
        zeros = 16 if engine is _VLLM and _has_hopper(reading.facts) else 4
        row = _of(engine, "awq", _integers(4, group, zeros, engine.beside), group)
        return _wrong_group(group) or replace(row, skips_by="anywhere")

    return read


def _has_hopper(facts: Facts) -> bool:
    return (facts.capability or (0, 0)) <= _HOPPER <= (facts.greatest or (0, 0))


def _fp8(engine: _Engine) -> Callable[[Reading], Scheme | NotRead]:
    def read(reading: Reading) -> Scheme | NotRead:
        block = reading.settings.get("weight_block_size")  # where it is not given, scales are of whole weights
        if block is not None and reading.settings["activation_scheme"] == "static":
            return NotRead(f"{engine.name} takes blocks of fp8 with dynamic scales of activations only")
        return _of_float8(engine, "fp8", reading, block)

    return read


def _of_float8(engine: _Engine, name: str, reading: Reading, block: object) -> Scheme | NotRead:
    if block not in (None, BLOCK):
        return _unplanned(f"its blocks of fp8 are of {block}, and not of 128 by 128")
    capability, blocks = reading.facts.capability or (0, 0), block is not None
    spread = capability < (engine.block_kernel if blocks else _ADA)  # what Marlin runs instead
    kept = int((reading.facts.greatest or (0, 0)) >= _BLACKWELL) if blocks else 4
    return _of(engine, name, _float8(kept, blocks=blocks, spread=spread), block=128 if blocks else 1)


def _mxfp4_of(engine: _Engine) -> Callable[[Reading], Scheme | NotRead]:
    def read(_: Reading) -> Scheme | NotRead:
        # A share is padded to whole tiles, so that any number of devices divides it.
        row = replace(_of(engine, "mxfp4", _mxfp4), experts=False, blocks=False, inputs_first=True)
        return replace(row, whole_inputs=1, whole_outputs=1)

    return read


def _modelopt(engine: _Engine, word: str) -> Callable[[Reading], Scheme | NotRead]:
    def read(reading: Reading) -> Scheme | NotRead:
        if word == "fp8":
            row = _of_float8(engine, "modelopt-fp8", reading, None)
        else:
            row = _of(engine, "modelopt-nvfp4", _nvfp4, 16)
        return row if isinstance(row, NotRead) else replace(row, default_skips="always")

    return read


def _compressed(engine: _Engine, name: str) -> Callable[[Reading], Scheme | NotRead]:
    def read(reading: Reading) -> Scheme | NotRead:
        said = {key.removeprefix(f"{GROUP_OF_ALL}."): value for key, value in reading.settings.items()}
        if said["weights.num_bits"] is None or said["weights.strategy"] is None:
            return _unplanned("it has no weights, several kinds of them, or sparsity or transforms beside them")
        row = _kind(engine, name, said, reading)
        if isinstance(row, NotRead):
            return row
        return replace(
            row,
            classes=SCHEMES["compressed-fp8"].classes,
            only=SCHEMES["compressed-fp8"].only,
            skips=(),
            default_skips="always",
        )

    return read


def _kind(engine: _Engine, name: str, said: Settings, reading: Reading) -> Scheme | NotRead:
    """Return the row of compressed-tensors' weights, by how they are stored."""
    bits, type_, strategy = (said[f"weights.{key}"] for key in ("num_bits", "type", "strategy"))
    inputs, stored = said["input_activations.num_bits"], said["format"]
    group = said["weights.group_size"] or -1
    if (type_, bits) == ("float", 8) and strategy in ("tensor", "channel", "block"):
        block = said["weights.block_structure"] if strategy == "block" else None
        if block is not None and engine is _SGLANG and (reading.facts.capability or (0, 0)) < _ADA:
            return _unplanned("below compute capability 8.9, its weights are blocks of fp8")
        return _of_float8(engine, name, reading, block)
    if (type_, bits, strategy, group) == ("float", 4, "tensor_group", 16):
        return _of(engine, name, _nvfp4, 16)
    if (type_, bits, inputs) == ("int", 8, 8) and strategy in ("tensor", "channel") and stored == "int-quantized":
        return _of(engine, name, _int8)
    if type_ == "int" and bits in (4, 8) and inputs is None and stored == "pack-quantized":
        ordered = said["weights.actorder"] in ("group", "dynamic", True)
        if ordered and not engine.ordered:
            return NotRead(f"{engine.name} takes no groups in the order of activations (`actorder`)")
        if said["weights.symmetric"] is False and bits != 4:
            return _unplanned("it has zeros, and not 4 bits")
        hopper = engine is _VLLM and _has_hopper(reading.facts)
        zeros = 0 if said["weights.symmetric"] is not False else (16 if hopper else bits)
        each = 8 if ordered else 0
        return _wrong_group(group) or _of(
            engine, name, _integers(bits, group, zeros, 16 + engine.beside, each_input=each), group
        )
    return _unplanned(f"it has weights of {bits} bits (`{type_}`, by {strategy}) in the format `{stored}`")


def _row(
    reads: Callable[[Reading], Scheme | NotRead], least: tuple[int, int], dtypes: frozenset[str] = _HALVES
) -> SchemeSupport:
    def read(reading: Reading) -> Scheme | NotRead:
        if reading.dtype == "bfloat16" and (reading.facts.capability or (0, 0)) < (8, 0):
            return NotRead("`bfloat16` needs compute capability 8.0", _IN_HALF)
        return reads(reading)

    return SchemeSupport(reads=read, kept=Condition({"cuda": least}), dtypes=dtypes, beside=frozenset({"cpu"}))


VLLM: Mapping[str, SchemeSupport] = {
    "gptq": _row(_gptq(_VLLM), (7, 5)),
    "awq": _row(_awq(_VLLM), (7, 5)),
    "fp8": _row(_fp8(_VLLM), (7, 5)),
    "mxfp4": _row(_mxfp4_of(_VLLM), (8, 0), frozenset({"bfloat16"})),
    "compressed": _row(_compressed(_VLLM, "compressed"), (7, 5)),
    "compressed-fp8": _row(_compressed(_VLLM, "compressed-fp8"), (7, 5)),
    "modelopt-fp8": _row(_modelopt(_VLLM, "fp8"), (8, 0)),
    "modelopt-nvfp4": _row(_modelopt(_VLLM, "nvfp4"), (7, 5)),
}
SGLANG: Mapping[str, SchemeSupport] = {
    "gptq": _row(_gptq(_SGLANG), (8, 0)),
    "awq": _row(_awq(_SGLANG), (7, 5)),
    "fp8": _row(_fp8(_SGLANG), (8, 0)),
    "mxfp4": _row(_mxfp4_of(_SGLANG), (8, 0)),
    "compressed": _row(_compressed(_SGLANG, "compressed"), (8, 0)),
    "compressed-fp8": _row(_compressed(_SGLANG, "compressed-fp8"), (8, 0)),
    "modelopt-fp8": _row(_modelopt(_SGLANG, "fp8"), (8, 9)),
    "modelopt-nvfp4": _row(_modelopt(_SGLANG, "nvfp4"), (8, 0)),
}
"""The rows by the scheme's name. A scheme without a row is not planned: bitsandbytes (which vLLM leaves to a plugin),
torchao, and what neither reads."""
