"""`Loading`: how a model is loaded, as far as it is decided before the library loads it.

Owns the value and its forms. A model tree has one with what the checkpoint decides, a plan has one with what the policy
decides beside that; how either is found out is the matter of the modules beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
"""What may be handed over. Another name is a kernel of the hub, which loading would fetch."""

TEXT_PARTS = (
    *("thinker_config", "text_config", "language_config", "llm_config", "vlm_config", "decoder", "decoder_config"),
)
"""The keys under which configurations of several parts have that of the language model."""

OVERRIDING = ("_attn_implementation", "_experts_implementation")
"""What an auto class reads out of a `config.json` after the arguments, and lets win over them."""

Pairs = tuple[tuple[str, str], ...]
"""Pairs of a part of the configuration and its implementation; `""` is the whole. Empty where unknown."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded: what a consumer is told beside the devices, and what the bytes were counted for."""

    architecture: str | None = None
    """The model class."""
    attention: Pairs = ()
    """Which `attn_implementation` each part of the model runs with."""
    experts: Pairs = ()
    """The same for `experts_implementation`; empty where the model has no experts that take one."""
    notes: tuple[str, ...] = ()
    """What of the checkpoint is not as its class would have it, for people."""
    dtype: str | None = None
    """The dtype that the policy asks for; `None` where it asks for none."""
    model_dtype: str | None = None
    """The dtype that the bytes were counted in where the policy asks for none: the model's own."""
    dtypes: Pairs = ()
    """The dtype of each component of a pipeline where the policy asks for none; empty for other models."""
    variant: str | None = None
    """Which files of the checkpoint are loaded, where it is not those without a variant."""
    gguf_file: str | None = None
    """The GGUF file that is loaded, in its folder; `None` where it is a checkpoint."""
    adapters: tuple[str, ...] = ()
    """Folders of LoRA adapters that are loaded onto the model, in order."""
    replaced: tuple[str, ...] = ()
    """Modules whose own weights an adapter replaces or scales: they cannot be kept elsewhere."""
    made_anew: tuple[str, ...] = ()
    """Tensors that the checkpoint does not store, so that none of them can be read from the disk."""
    compared: tuple[tuple[str, ...], ...] = ()
    """Groups of tensors that the configuration ties and that are stored apart: loading compares them where they are."""
    cache: str | None = None
    """The implementation of the KV cache that the generation settings ask for, where it is not the one counted."""
    overriding: tuple[str, ...] = ()
    """Keys of the configuration that win over the argument of the same name without the `_`."""
    offload_folder: str | None = None
    """Where weights are rewritten; `None` where nothing is."""
    rewritten: int = 0
    """Bytes that loading writes to `offload_folder`."""
    scheme: str = "none"
    """What the weights are held as: the name of a scheme, or `"none"`."""
    quantization: Mapping[str, Any] | None = None
    """The `quantization_config` that is handed over, as a table; `None` where none is."""
    assumed: tuple[str, ...] = ()
    """Packages that the scheme needs, and that the host records no version of."""
    context: int = 0
    """Tokens of a sequence that KV cache and activations were counted for; 0 where nothing was."""
    batch: int = 0
    """Requests at once that they were counted for."""
    beams: int = 1
    """Sequences that generation keeps for each request."""
    asked: tuple[tuple[str, str], ...] = ()
    """What a policy decides of all this, as a part of a plan's identity: key and value, in the order of the keys."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with implementations as a consumer takes them."""
        always = {
            "architecture": self.architecture,
            "dtype": self.dtype,
            "offload_folder": self.offload_folder,
            "rewritten": self.rewritten,
            "model_dtype": self.model_dtype,
            "attn_implementation": as_argument(self.attention),
            "experts_implementation": as_argument(self.experts),
        }
        perhaps: dict[str, Any] = {
            "dtypes": dict(self.dtypes),
            "variant": self.variant,
            "gguf_file": self.gguf_file,
            "adapters": list(self.adapters),
            "scheme": self.scheme if self.scheme != "none" else "",
            "quantization_config": dict(self.quantization or {}),
            "assumed": list(self.assumed),
            "overriding": list(self.overriding),
            "asked": dict(self.asked),
        }
        perhaps |= {"context": self.context, "batch": self.batch, "beams": self.beams} if self.context else {}
        return always | {key: value for key, value in perhaps.items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Loading:
        """Read what `to_dict` wrote. Raises `TypeError` where it is malformed."""
        quantization = data.get("quantization_config")
        if quantization is not None and not isinstance(quantization, Mapping):
            raise TypeError(f"a table is expected, got {type(quantization).__name__}")
        return cls(
            _text(data.get("architecture")),
            dtype=_text(data.get("dtype")),
            model_dtype=_text(data.get("model_dtype")),
            dtypes=as_pairs(data.get("dtypes", {})),
            variant=_text(data.get("variant")),
            gguf_file=_text(data.get("gguf_file")),
            offload_folder=_text(data.get("offload_folder")),
            attention=as_pairs(data.get("attn_implementation")),
            experts=as_pairs(data.get("experts_implementation")),
            adapters=_texts(data.get("adapters", [])),
            scheme=_text(data.get("scheme")) or "none",
            quantization=quantization,
            assumed=_texts(data.get("assumed", [])),
            overriding=_texts(data.get("overriding", [])),
            asked=as_pairs(data.get("asked", {})),
            rewritten=_number(data.get("rewritten", 0)),
            context=_number(data.get("context", 0)),
            batch=_number(data.get("batch", 0)),
            beams=_number(data.get("beams", 1)),
        )


UNKNOWN = Loading()
"""Nothing is known: the model's own defaults are loaded."""


def overriding(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a configuration that win over arguments."""
    return tuple(key for key in OVERRIDING if config.get(key) is not None)


def text_attention(pairs: Pairs) -> str | None:
    """Return the implementation of attention that the language model runs with, `None` where it is unknown."""
    said = dict(pairs)
    return next((said[part] for part in (*TEXT_PARTS, "") if part in said), None)


def as_argument(pairs: Pairs) -> str | dict[str, str] | None:
    """Return an implementation as `from_pretrained` takes it, `None` where it is unknown."""
    if not pairs:
        return None
    return pairs[0][1] if len(pairs) == 1 and not pairs[0][0] else dict(pairs)


def as_pairs(given: object) -> Pairs:
    """Return what `as_argument` gave as pairs again. Raises `TypeError` where it is neither a text nor a table."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (("", given),)
    if isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair):
        return tuple(given.items())
    raise TypeError(f"a text or a table of texts is expected, got {type(given).__name__}")


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number is expected, got {type(value).__name__}")
    return value


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"text is expected, got {type(value).__name__}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"a list of texts is expected, got {type(value).__name__}")
    return tuple(value)
