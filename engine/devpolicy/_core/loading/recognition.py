"""Which scheme a checkpoint has: by its configuration at any level, by `hf_quant_config.json`, by the names it stores.

Owns the reading of what a stranger's files say of their quantisation. Nothing that they say raises an error: what is
not understood is a `Quantization` without a scheme that says why, and refused where it would be planned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from devpolicy._core.loading.quantization import Quantization, Scheme
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.loading.skips import MOST_NAMES, is_readable

KEY = "quantization_config"
_TEXT_PARTS = ("decoder", "generator", "text_config")
"""The parts of a configuration of which Transformers asks one for a quantisation, where the top has none."""
_DEEPEST = 8
_LONGEST = 60
_MLX = "quantization"
"""The key under which MLX says how it stored the weights of a model. No library of a plan's targets reads it."""
_MARKS = re.compile(
    r"\.(qweight|qzeros|weight_packed|weight_scale|weight_scale_inv|weight\.absmax|weight\.quant_map|SCB"
    r"|_weight_qdata)$|_(blocks|scales)$"
)
"""What stands beside or in place of a weight that is quantised."""


def quantization_of(config: Mapping[str, Any], beside: object = None, names: Iterable[str] = ()) -> Quantization | None:
    """Return how a checkpoint is quantised, `None` where nothing says that it is.

    `beside` is the content of its `hf_quant_config.json`, `names` are those of its tensors.
    """
    given, where = _given(config)
    mlx = isinstance(config.get(_MLX), Mapping) and {"bits", "group_size"} & config[_MLX].keys()
    if mlx and (not isinstance(given, Mapping) or _method(given) is None):  # MLX writes the same there
        return Quantization("mlx", problem=f"`{_MLX}` of its `config.json` is how MLX stores weights")
    if given is not None:
        read = _read(given)
        if where in ("", *_TEXT_PARTS):
            return read
        return replace(read, scheme="", settings=(), problem=f"`{KEY}` is in `{where}`, where no library reads it")
    if beside is not None:
        return _read(_modelopt(beside))
    marked = next((name for name in names if _MARKS.search(name)), None)
    if marked is None:
        return None
    return Quantization("unknown", problem=f"it stores `{marked[:200]}`, and its `config.json` has no `{KEY}`")


def as_config(quantization: Quantization) -> dict[str, Any]:
    """Return the configuration that is read to this scheme: what a model file keeps of it."""
    table: dict[str, Any] = {"quant_method": quantization.method}
    for key, value in quantization.settings:
        inside = table
        *parents, last = key.split(".")
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = _listed(value)
    return table


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _given(config: Mapping[str, Any]) -> tuple[Any, str]:
    """Return what a configuration says of its quantisation, the outermost first, and in which part of it."""
    levels: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    for _ in range(_DEEPEST):
        for path, level in levels:
            if level.get(KEY) is not None:
                return level[KEY], path
        levels = [
            (f"{path}.{name}" if path else str(name), inner)
            for path, level in levels
            for name, inner in level.items()
            if isinstance(inner, Mapping)
        ]
    return None, ""


def _modelopt(beside: object) -> dict[str, Any]:
    """Return what ModelOpt's own file says in the form of a configuration."""
    inner = beside.get("quantization") if isinstance(beside, Mapping) else None
    return {"quant_method": "modelopt", **inner} if isinstance(inner, Mapping) else {"quant_method": "modelopt"}


def _read(given: Any) -> Quantization:
    if not isinstance(given, Mapping):
        return Quantization("unknown", problem=f"`{KEY}` is no table")
    method = _method(given)
    if not isinstance(method, str):
        return Quantization("unknown", problem=f"`{KEY}` names no `quant_method`")
    shown = method[:_LONGEST]
    rows = [row for row in SCHEMES.values() if row.method == method and row.in_config]
    if not rows:
        return Quantization(shown, problem=f"nothing here knows `{shown}`")
    if method == "compressed-tensors":
        given = _compressed(given)
    elif method == "modelopt" and isinstance(given.get("quantization"), Mapping):
        given = _modelopt(given)  # in the form of its own file
    problem = f"nothing here knows this kind of `{shown}`"
    for row in rows:
        settings, wrong = _settings(row, given)
        if all(settings.get(key) == value for key, value in row.when.items()):
            if wrong:
                return Quantization(shown, problem=wrong)
            return Quantization(shown, row.name, tuple(settings.items()))
        problem = wrong or problem
    return Quantization(shown, problem=problem)


def _method(given: Mapping[Any, Any]) -> object:
    """Return the method as Transformers finds it: the flags of bitsandbytes come before the name."""
    if given.get("load_in_8bit") or given.get("load_in_4bit"):
        return "bitsandbytes"
    return given.get("quant_method")


def _settings(row: Scheme, given: Mapping[Any, Any]) -> tuple[dict[str, Any], str]:
    """Return what a configuration says of a row's settings, and what of it is not valid."""
    settings: dict[str, Any] = {}
    problem = ""
    for key, setting in row.settings.items():
        value = _frozen(_at(given, key))
        if value is None and setting.consumers_differ and not _has(given, key):
            continue
        if value is None:
            value = setting.default
            if setting.valid(None) and _has(given, key):
                value = None  # said to be nothing, which is not the same as left to the library
        if setting.valid(value):
            settings[key] = value
        else:
            wanted = f"`{key}` is not {setting.what}" if setting.what else f"no plan is made where `{key}` is given"
            problem = problem or wanted
    return settings, problem


def _at(given: Mapping[Any, Any], key: str) -> Any:
    value: Any = given
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _has(given: Mapping[Any, Any], key: str) -> bool:
    *parents, last = key.split(".")
    table = _at(given, ".".join(parents)) if parents else given
    return isinstance(table, Mapping) and last in table


def _frozen(value: Any, depth: int = 0) -> Any:
    """Return a value with its lists as tuples, so that it can be compared and kept; an empty table is nothing."""
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return tuple(_frozen(one, depth + 1) for one in value)
    return None if value == {} else value


def _compressed(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Return compressed-tensors' configuration with one group of its modules where all are alike, else none.

    Groups of fp8 whose scales differ are alike but for what their scales are.
    """
    groups = given.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, Mapping) else []
    targets = [name for scheme in schemes for name in _names(scheme, "targets")]
    ignored = _names(given, "ignore")
    readable = all(map(is_readable, (*targets, *ignored))) and max(len(targets), len(ignored)) <= MOST_NAMES
    format_ = given.get("format") if isinstance(given.get("format"), str) else None
    whole = {"quant_method": given["quant_method"], "format": format_}
    if not schemes or not readable or given.get("sparsity_config") or given.get("transform_config"):
        return whole
    left = {"ignore": given.get("ignore")}
    said = [{part: _plain(scheme, part) for part in ("weights", "input_activations")} for scheme in schemes]
    formats = [_plain({"": scheme}, "").get("format") or format_ for scheme in schemes]
    if all(one == said[0] for one in said) and len({*formats}) == 1:
        return {**whole, "config_groups": {"all": {"targets": targets, **said[0]}}, "format": formats[0], **left}
    if all(map(_is_float8, schemes)):
        weights = {"type": "float", "num_bits": 8}
        return {**whole, "config_groups": {"all": {"targets": targets, "weights": weights}}, **left}
    return whole


def _plain(table: Any, key: str) -> dict[str, Any]:
    """Return a table inside of another with what is a plain value or a pair of sizes, an empty one where it is none."""
    inside = table.get(key) if isinstance(table, Mapping) else None
    if not isinstance(inside, Mapping):
        return {}
    plain: dict[str, Any] = {
        str(name): one for name, one in inside.items() if isinstance(one, str | int | float | bool)
    }
    block = inside.get("block_structure")
    if isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(one, int) for one in block):
        plain["block_structure"] = tuple(block)
    return plain


def _names(table: Any, key: str) -> list[str]:
    names = table.get(key) if isinstance(table, Mapping) else None
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _is_float8(scheme: Any) -> bool:
    weights = scheme.get("weights") if isinstance(scheme, Mapping) else None
    return isinstance(weights, Mapping) and weights.get("type") == "float" and weights.get("num_bits") == 8
