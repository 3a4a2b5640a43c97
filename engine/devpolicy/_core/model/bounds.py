"""Whether a configuration describes a model of a size that can be built, decided before anything is built.

Owns which keys count something and how large each may be. It works on a plain table, at every level of it, and knows no
model: what it does not recognise is stopped while the model is built (`devpolicy._core.model.sealed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import read_json, shown
from devpolicy._core.model.limits import (
    DEEPEST_JSON,
    LARGEST_CONFIG,
    LARGEST_CONTEXT,
    LARGEST_DIMENSION,
    LARGEST_IMAGE,
    MOST_COMPUTED,
    MOST_ELEMENTS,
    MOST_ENTRIES,
    MOST_LAYERS,
)

_Value = int | float | Mapping[Any, Any] | Sequence[Any]
_FLOAT = "__float__"
_COUNTS = re.compile(
    r"(^|_)(layers?|blocks?|depths?|stages?|repeats?|heads?|groups?|codebooks|quantizers|levels|scales)$"
    r"|^attention_types$"
)
_ENTRIES = re.compile(r"(^|_)(experts|labels|classes)$")
_CONTEXTS = re.compile(r"(^|_)(positions?|position_embeddings|ctx|seq(uence)?_len(gth)?|context_length|max_length)$")
_IMAGES = re.compile(r"(^|_)(image|img|crop|input|pretrain_img)_?(size|height|width)$")
_SIZES = re.compile(r"(_size|_dims?|_channels|_width|_embd|_inner|^dim|^d_\w+|^hidden_sizes|_features)$")
_WIDTHS = re.compile(r"^(d_model|dim|emb_dim|hidden_size|embedding_size)$")
_COUNTED = re.compile(
    r"^(num|n)_|^(hidden|intermediate|vocab)_size$|^(d_model|d_ff|d_kv|ffn_dim)$|^(en|de)coder_layers$"
)
"""Keys of which a negative number makes no sense; of others it may be an index from the end, or stand for none."""

_COMPUTED = frozenset(
    {
        *(
            "autoformer",
            "distilbert",
            "flaubert",
            "informer",
            "marian",
            "pegasus",
            "roformer",
            "time_series_transformer",
        ),
        "xlm",
    }
)
"""Model types whose table of positions is computed element by element while the model is built."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration in a file, with every size in it bounded. Raises `ModelError` that names the file."""
    table: dict[str, Any] = with_floats(read_json(path, LARGEST_CONFIG))
    check_config(table, path)
    return table


def with_floats(value: Any, depth: int = 0) -> Any:
    """Return a table with the numbers in it that JSON has no form for, and that Transformers writes as tables."""
    if depth > DEEPEST_JSON:
        return value  # refused where its numbers are looked at
    if isinstance(value, Mapping):
        if set(value) == {_FLOAT} and value[_FLOAT] in ("NaN", "Infinity", "-Infinity"):
            return float(value[_FLOAT])
        return {key: with_floats(inner, depth + 1) for key, inner in value.items()}
    return [with_floats(inner, depth + 1) for inner in value] if isinstance(value, list) else value


def check_config(table: Mapping[Any, Any], source: Path | None = None) -> None:
    """Raise `ModelError` (DP104) for the first number in a configuration that is beyond its limit."""
    for path, key, value in _numbers(table):
        match value:
            case Mapping():
                reason = _computed(value)
            case int() | float():
                reason = _beyond(key, value)
            case _:
                reason = _sum_beyond(key, value)
        if reason:
            notes = (f"read from `{shown(source)}`",) if source is not None else ()
            raise ModelError(Diagnostic("DP104", f"`{shown('.'.join(path))}` {reason}", notes=notes))


def _numbers(table: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], str, _Value]]:
    """Yield every number and list with its path and the nearest key above it, and the tables that describe a model."""
    waiting: list[tuple[tuple[str, ...], str, int, Any]] = [((), "", 0, table)]
    while waiting:
        path, key, depth, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [((*path, str(name)), str(name), depth + 1, inner) for name, inner in value.items()]
            if "model_type" in value:
                yield (*path, "model_type"), key, value
        elif isinstance(value, list | tuple):
            waiting += [(path, key, depth + 1, inner) for inner in value]
            yield path, key, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, key, value
        if depth > DEEPEST_JSON:
            raise ModelError(
                Diagnostic("DP101", f"the configuration is nested deeper than {DEEPEST_JSON} levels, the limit")
            )


def _computed(config: Mapping[Any, Any]) -> str:
    """Return why the positions of a configuration are refused, empty where they are not."""
    if str(config.get("model_type")) not in _COMPUTED:
        return ""
    numbers = [(str(key), value) for key, value in config.items() if isinstance(value, int)]
    positions = max((value for key, value in numbers if _CONTEXTS.search(key) or key.endswith("_length")), default=0)
    width = max((value for key, value in numbers if _WIDTHS.search(key)), default=1024)
    if positions * width <= MOST_COMPUTED:
        return ""
    return f"computes a table of {positions} positions, each of {width}, and the limit is {MOST_COMPUTED} elements"


def _sum_beyond(key: str, values: Sequence[Any]) -> str:
    """Return why a list of counts is refused, empty where it is not. Some models make a table of their sum."""
    total = sum(min(value, MOST_LAYERS) for value in values if isinstance(value, int | float) and value > 0)
    if not _COUNTS.search(key) or total <= MOST_ENTRIES:
        return ""
    return f"adds up to {total}, and the limit is {MOST_ENTRIES}"


def _beyond(key: str, value: int | float) -> str:
    """Return why a number of a configuration is refused, empty where it is not."""
    if isinstance(value, int) and abs(value) > MOST_ELEMENTS:
        return "is a number of more than 64 bits, the limit of a configuration"
    limit, what = _limit(key)
    if limit is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which is no number of {what}"
    if value > limit:
        return f"is {value}, and the limit for a number of {what} is {limit}"
    if value < 0 and _COUNTED.search(key):
        return f"is {value}, and a number of {what} is not negative"
    return ""


def _limit(key: str) -> tuple[int | None, str]:
    """Return the limit of what a key counts, `None` where it is not known to count anything."""
    if _IMAGES.search(key):
        return LARGEST_IMAGE, "pixels"
    if _CONTEXTS.search(key):
        return LARGEST_CONTEXT, "positions"
    if _ENTRIES.search(key):
        return MOST_ENTRIES, "experts, labels or classes"
    if _COUNTS.search(key):
        return MOST_LAYERS, "layers, blocks or heads"
    if _SIZES.search(key):
        return LARGEST_DIMENSION, "elements of a dimension"
    return None, ""
