"""`python -m tools.config_defaults > fixtures/config-defaults.toml`: what configurations are completed with.

Owns the defaults of Transformers' configuration classes, and the other names of their keys, for the families that have
a template. Needs Transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from devpolicy._core.model.families import FAMILIES

PARTS = ("siglip_vision_model",)
"""Types of parts of a model that have no template of their own."""


def lines() -> Iterator[str]:
    """Yield the lines of the table."""
    import transformers

    yield "# What Transformers completes the configurations of these model types with, and other names of their keys."
    yield f"# Written by `python -m tools.config_defaults`, with version {transformers.__version__}."
    for model_type in sorted({*FAMILIES, *PARTS}):
        cls = transformers.CONFIG_MAPPING[model_type]
        own: dict[str, Any] = {"tie_word_embeddings": getattr(cls, "tie_word_embeddings", None)}
        own |= {field.name: field.default for field in fields(cls)}
        # The name of a field stands for both; a value under the other one comes later, and wins.
        pairs = ((one, other) if other in own else (other, one) for one, other in cls.attribute_map.items())
        aliases = {key: name for key, name in pairs if key not in own}
        yield f'\n["{model_type}".aliases]'
        yield from (f"{key} = {json.dumps(name)}" for key, name in sorted(aliases.items()))
        yield f'\n["{model_type}".defaults]'
        yield from (f"{key} = {json.dumps(value)}" for key, value in sorted(own.items()) if _plain(key, value))


def _plain(key: str, value: Any) -> bool:
    return isinstance(value, bool | int | float | str) and key not in ("transformers_version", "_attn_implementation")


def text() -> str:
    """Return the table."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    print(text(), end="")
