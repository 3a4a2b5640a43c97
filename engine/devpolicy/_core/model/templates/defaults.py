"""What Transformers completes a configuration with: the defaults of its class, and the other names of its keys.

Owns the reading of `fixtures/config-defaults.toml`, which `tools.config_defaults` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import tomli

from devpolicy._core.shipped import shipped

_PARTS = {"gemma3": {"text_config": "gemma3_text", "vision_config": "siglip_vision_model"},
          "clip": {"text_config": "clip_text_model", "vision_config": "clip_vision_model"}}  # fmt: skip


@cache
def _table() -> dict[str, Any]:
    return tomli.loads(shipped("fixtures").joinpath("config-defaults.toml").read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any], model_type: str) -> dict[str, Any] | None:
    """Return a configuration with the defaults of its type, `None` where the type is not known."""
    known = _table().get(model_type)
    if known is None:
        return None
    aliases = known["aliases"]
    given = {key: value for key, value in config.items() if key not in aliases}
    given |= {aliases[key]: value for key, value in config.items() if key in aliases}
    whole = {**known["defaults"], **given}
    for key, part in _PARTS.get(model_type, {}).items():
        inner = given.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            return None
        inner = dict(inner or {})
        named = str(inner.get("model_type") or part)
        whole[key] = complete({**inner, "model_type": named}, named)
    return whole
