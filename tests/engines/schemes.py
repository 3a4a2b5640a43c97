"""What our rows of quantised checkpoints say of vLLM and SGLang, compared with the sources of both.

Owns the reading of those sources: by `ast`, as neither is imported. `tests.engines.parsers` downloads them and asks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from devpolicy._core.loading import engines
from devpolicy._core.loading.quantization import SchemeSupport

_QUANTIZATION = {"vllm": "vllm/model_executor/layers/quantization", "sglang": "sglang/srt/layers/quantization"}
ROWS: Mapping[str, Mapping[str, SchemeSupport]] = {"vllm": engines.VLLM, "sglang": engines.SGLANG}
_SCHEMES = "compressed_tensors/schemes/compressed_tensors"
_CLASSES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "vllm": {
        # GPTQ's configuration takes older cards, which its Marlin kernel does not.
        "gptq": (("../../kernels/linear/mixed_precision/marlin.py", "MarlinLinearKernel"),),
        "awq": (("auto_awq.py", "AutoAWQConfig"),),
        "fp8": (("fp8.py", "Fp8Config"),),
        "mxfp4": (("mxfp4.py", "Mxfp4Config"),),
        "compressed": tuple(
            (f"{_SCHEMES}_{file}.py", f"CompressedTensors{name}")
            for file, name in (("wNa16", "WNA16"), ("w8a8_int8", "W8A8Int8"), ("w4a4_nvfp4", "W4A4Fp4"))
        ),
        "compressed-fp8": ((f"{_SCHEMES}_w8a16_fp8.py", "CompressedTensorsW8A16Fp8"),),
        "modelopt-fp8": (("modelopt.py", "ModelOptFp8Config"),),
        "modelopt-nvfp4": (("modelopt.py", "ModelOptNvFp4Config"),),
    },
    "sglang": {
        "gptq": (("gptq/gptq.py", "GPTQMarlinConfig"),),
        "awq": (("awq/awq.py", "AWQConfig"),),
        "fp8": (("fp8.py", "Fp8Config"),),
        "mxfp4": (("mxfp4.py", "Mxfp4Config"),),
        "compressed": tuple(
            (f"{_SCHEMES}_{file}.py", f"CompressedTensors{name}")
            for file, name in (("wNa16", "WNA16"), ("w8a8_int8", "W8A8Int8"), ("w4a16_nvfp4", "W4A16Fp4"))
        ),
        "compressed-fp8": ((f"{_SCHEMES}_w8a16_fp8.py", "CompressedTensorsW8A16Fp8"),),
        "modelopt-fp8": (("modelopt_quant.py", "ModelOptFp8Config"),),
        "modelopt-nvfp4": (("modelopt_quant.py", "ModelOptFp4Config"),),
    },
}
"""The classes whose least compute capability is the least of a scheme: of several, the greatest."""
_METHODS = {
    **{name: name for name in ("gptq", "awq", "fp8", "mxfp4")},
    **dict.fromkeys(("compressed", "compressed-fp8"), "compressed-tensors"),
    "modelopt-fp8": "modelopt",
    "modelopt-nvfp4": "modelopt_fp4",
}
"""The engine's name of the method that reads each scheme. SGLang's of GPTQ is `gptq_marlin` on CUDA."""
_DTYPES = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}


def check_schemes(engine: str, inside: Path) -> Iterator[str]:
    """Yield what of an engine's source is not as our rows have it; `inside` is the folder of its package."""
    folder, rows = inside / _QUANTIZATION[engine], ROWS[engine]
    methods = _strings(folder / "__init__.py")
    if set(_CLASSES[engine]) != set(rows):
        yield f"rows without a class: {sorted(set(rows) ^ set(_CLASSES[engine]))}"
    for name, classes in _CLASSES[engine].items():
        kept = rows[name].kept
        ours = None if kept is None else kept.capability.get("cuda")
        method = "gptq_marlin" if (engine, name) == ("sglang", "gptq") else _METHODS[name]
        if method not in methods:
            yield f"`{name}`: no method is `{method}`"
        least = max(_greatest(_function(folder / file, cls, "get_min_capability")) for file, cls in classes)
        if ours != divmod(least, 10):
            yield f"`{name}`: it needs compute capability {least / 10}, and our row says {ours}"
    yield from _dtypes(engine, folder)
    utilities = "utils/marlin_utils.py" if engine == "vllm" else "marlin_utils.py"
    groups = _assigned(folder / utilities, "MARLIN_SUPPORTED_GROUP_SIZES")
    if tuple(ast.literal_eval(groups)) != engines.GROUPS:
        yield f"Marlin takes groups of {ast.unparse(groups)}, and our rows of {engines.GROUPS}"
    if engine == "vllm":
        for method in ("bitsandbytes", "gguf"):
            if method in methods:
                yield f"`{method}` is there, which our page says is not"
    file, cls = ("auto_gptq.py", "AutoGPTQConfig") if engine == "vllm" else ("gptq/gptq.py", "GPTQMarlinConfig")
    kinds = {ast.unparse(one) for one in _keys(folder / file, cls, "TYPE_MAP") if one is not None}
    if kinds != {"(4, True)", "(8, True)"}:
        yield f"GPTQ is read where bits and symmetry are {sorted(kinds)}"


def _dtypes(engine: str, folder: Path) -> Iterator[str]:
    """Yield where our rows let a model compute in a dtype that its method does not take."""
    for name, classes in _CLASSES[engine].items():
        ours, file, cls = ROWS[engine][name].dtypes, *classes[0]
        if (engine, name) == ("sglang", "awq"):
            cls = "AWQMarlinConfig"  # what runs it from its own least capability on
        body = _function(folder / file, cls, "get_supported_act_dtypes", missing=True)
        said = {one.attr for one in ast.walk(body) if isinstance(one, ast.Attribute)}
        taken = {_DTYPES[one] for one in said if one in _DTYPES}
        if taken and not ours <= taken:
            yield f"`{name}`: it computes in {sorted(taken)}, and our row says {sorted(ours)}"


def _strings(path: Path) -> set[str]:
    return {
        one.value for one in ast.walk(_parsed(path)) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _function(path: Path, cls: str, name: str, *, missing: bool = False) -> ast.AST:
    (body,) = (one.body for one in _parsed(path).body if isinstance(one, ast.ClassDef) and one.name == cls)
    found = [one for one in body if isinstance(one, ast.FunctionDef) and one.name == name]
    return found[0] if found or not missing else ast.Pass()


def _keys(path: Path, cls: str, name: str) -> list[ast.expr | None]:
    """Return the keys of a table that a class has."""
    (body,) = (one.body for one in _parsed(path).body if isinstance(one, ast.ClassDef) and one.name == cls)
    (table,) = (
        one.value
        for one in body
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id == name
    )
    return table.keys if isinstance(table, ast.Dict) else []


def _greatest(function: ast.AST) -> int:
    """Return the capability that a function returns on CUDA: the last that it returns, otherwise than where it asks."""
    last = max((one for one in ast.walk(function) if isinstance(one, ast.Return)), key=lambda one: one.lineno)
    value = last.value.orelse if isinstance(last.value, ast.IfExp) else last.value
    return int(ast.literal_eval(value)) if value is not None else 0


def _assigned(path: Path, name: str) -> ast.expr:
    (found,) = (
        one.value
        for one in _parsed(path).body
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id == name
    )
    return found
