"""What a model's generation settings determine of memory: the sequences kept for each of the batch, and their form.

Owns the reading of `generation_config.json`, and the keys. `generate` expands every input to as many sequences as the
larger of `num_beams` and `num_return_sequences`, before it computes anything. Models of time series draw
`num_parallel_samples` of each, by their own `generate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devpolicy._core.model.files import is_file, read_json
from devpolicy._core.model.limits import LARGEST_CONFIG

_FILE = "generation_config.json"
_KEYS = ("num_beams", "num_return_sequences", "num_parallel_samples")
MOST_BEAMS = 1 << 16
_OTHER_CACHES = ("offloaded", "offloaded_static", "offloaded_hybrid", "offloaded_hybrid_chunked", "quantized", "paged")
"""Implementations of the KV cache whose bytes, or places, are not those that are counted."""


def beams_of(*settings: Mapping[str, Any]) -> int:
    """Return how many sequences are kept, by the first of some settings that states it."""
    return max(_first(key, settings) for key in _KEYS)


def beams_of_module(module: Any) -> int | None:
    """Return how many sequences a loaded model keeps, `None` where it does not generate."""
    settings = getattr(module, "generation_config", None)
    return None if settings is None else beams_of({key: getattr(settings, key, None) for key in _KEYS})


def stored_beams(folder: Path) -> int | None:
    """Return what the generation settings of a checkpoint folder say, `None` without any. Raises `ModelError`."""
    path = folder / _FILE
    return beams_of(read_json(path, LARGEST_CONFIG)) if is_file(path) else None


def stored_cache(folder: Path) -> str | None:
    """Return the implementation of the KV cache that a checkpoint folder asks for, where it is not counted so."""
    path = folder / _FILE
    said = read_json(path, LARGEST_CONFIG).get("cache_implementation") if is_file(path) else None
    return next((name for name in _OTHER_CACHES if name == said), None)


def _first(key: str, settings: tuple[Mapping[str, Any], ...]) -> int:
    said = (table.get(key) for table in settings)
    # What is left at its default is looked up in the next table, as Transformers does.
    return next((value for value in said if type(value) is int and 1 < value <= MOST_BEAMS), 1)
