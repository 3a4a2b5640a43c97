"""`[loading]`: how the model is loaded, where that is not left to the checkpoint.

Owns its keys and their reading. What they do to the bytes of a model, and what a consumer is told, is not decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.loading.quantizations import QUANTIZATIONS
from devpolicy._core.loading.value import ATTENTION
from devpolicy._core.toml.tables import Kind, choice, key, list_of, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor

MOST_ADAPTERS = 64
"""Adapters of one model. Each is read, and holds memory."""

_CLASS = re.compile(r"[A-Za-z_]\w{0,119}", re.ASCII)
_VARIANT = re.compile(r"[A-Za-z0-9][\w-]{0,39}", re.ASCII)


def _read_architecture(value: object, cursor: Cursor) -> str | None:
    if not isinstance(value, str):
        wrong_type(value, cursor, "the name of a class")
    elif _CLASS.fullmatch(value):
        return value
    else:
        hint = 'such as `architecture = "LlamaForCausalLM"`, or an auto class: `"AutoModel"`'
        cursor.error("DP104", f"`{value}` is no name of a class", label="a name without dots", help=hint)
    return None


def _read_variant(value: object, cursor: Cursor) -> str | None:
    if not isinstance(value, str):
        wrong_type(value, cursor, "a word of a file name")
    elif _VARIANT.fullmatch(value):
        return value
    else:
        hint = 'the word between `model.` and `.safetensors`, such as `variant = "fp16"`'
        cursor.error("DP104", f"`{value}` is no variant", label="letters, digits, `-` and `_`", help=hint)
    return None


def _read_folder(value: object, cursor: Cursor) -> str | None:
    """Return the folder of an adapter: relative to the policy's file, which is known here alone."""
    if not isinstance(value, str):
        wrong_type(value, cursor, "the folder of an adapter, or a list of them")
        return None
    if not value.strip() or "\0" in value:
        hint = 'such as `adapter = "./lora"`'
        cursor.error("DP104", "this is no folder of an adapter", label="not a path", help=hint)
        return None
    if value.startswith("~"):
        hint = "write the path in full, or relative to the policy file"
        cursor.error("DP104", "`~` is not expanded", label="a folder of this name", help=hint)
        return None
    beside = cursor.document.folder(cursor.path)
    return value if beside is None else str(Path(beside) / value)


_ARCHITECTURE: Kind[str] = Kind(
    "the name of a class", _read_architecture, {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
)
_VARIANT_KIND: Kind[str] = Kind(
    "a word of a file name", _read_variant, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}
)
_FOLDER: Kind[str] = Kind("a folder", _read_folder, {"type": "string", "minLength": 1})


@dataclass(frozen=True, slots=True)
class LoadingTable:
    """The keys of `[loading]`; `None` and an empty tuple leave it to the checkpoint."""

    quantization: tuple[str, ...] = key(
        list_of(choice(*QUANTIZATIONS), or_one=True, least=1),
        "The scheme in which weights are quantised while they are loaded. In a list, the first that fits is used.",
        value=(),
        default='`"none"`',
    )
    attention: str | None = key(choice(*ATTENTION), "The implementation of attention.", default="the model's own")
    architecture: str | None = key(
        _ARCHITECTURE,
        "The class that the model is loaded as: a model class or an auto class of Transformers.",
        default="the checkpoint's",
    )
    adapter: tuple[str, ...] = key(
        list_of(_FOLDER, or_one=True, least=1, most=MOST_ADAPTERS),
        "Folders of LoRA adapters, relative to the policy file; all of them are loaded.",
        value=(),
        default="none",
    )
    variant: str | None = key(
        _VARIANT_KIND,
        "The variant of a checkpoint's files to load: `model.fp16.safetensors` is the variant `fp16`.",
        default="none",
    )
