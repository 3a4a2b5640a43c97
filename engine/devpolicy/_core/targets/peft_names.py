"""The names that PEFT gives to the modules of a model that it wraps.

Owns the way back: a layer that an adapter changes holds the model's own as `base_layer`, one that it replaces as
`original_module`, and the adapter's tensors beside it.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "base_model.model"
_OWN = frozenset({"base_layer", "original_module"})
_ADAPTERS = ("lora_", "modules_to_save")


def is_wrapped(model: Any) -> bool:
    """Whether a model is one of PEFT's, or has adapters in it."""
    return isinstance(getattr(model, "peft_config", None), dict)


def own_path(path: str) -> str:
    """Return the path that a module of a wrapped model has in the model itself; of an adapter's the one it changes."""
    parts: list[str] = []
    for part in path.removeprefix(_PREFIX).lstrip(".").split("."):
        if part.startswith(_ADAPTERS):
            break
        if part not in _OWN:
            parts.append(part)
    return ".".join(parts)


def is_adapters(path: str) -> bool:
    """Whether a path in a wrapped model is an adapter's."""
    return any(part.startswith(_ADAPTERS) for part in path.split("."))
