"""What of a configuration never reaches Transformers, because it would act on it.

Owns the keys. They name code that comes with a checkpoint, files and repositories elsewhere, and the software that
computes (attention, kernels, quantisation). None of them says what modules a model has. Transformers is given a copy
without them, at every level, and picks the attention that its own class has: `sdpa`, else `eager`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import shown

_CODE = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "_auto_class"}
_ELSEWHERE = {
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_weights", "cache_dir", "checkpoint_path"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "use_pretrained_backbone", "use_safetensors"),
}
_SOFTWARE = {
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("use_kernels", "kernel_config", "allow_all_kernels", "quantization_config", "compression_config"),
}
# Class variables of configurations. As keys they would redirect others: `attribute_map` makes any key an `auto_map`.
_MACHINERY = {
    *("attribute_map", "sub_configs", "sub_configs_defaults", "base_config_key", "has_no_defaults_at_init"),
    *("base_model_tp_plan", "base_model_pp_plan", "base_model_ep_plan", "base_model_fsdp_plan"),
    *("extra_files", "extra_config_files"),
}
INERT = frozenset(_CODE | _ELSEWHERE | _SOFTWARE | _MACHINERY)
"""Keys that are taken out of a configuration, at every level."""

_NAMES_A_MODEL = ("backbone", "architecture")  # in other libraries: `hf-hub:org/name` makes timm download it
_RESET: dict[str, Any] = {
    "_name_or_path": "", "_attn_implementation_internal": None, "_experts_implementation_internal": None,
}  # fmt: skip


def config_text(table: Mapping[Any, Any]) -> str:
    """Return a configuration as JSON without what Transformers would act on, empty where it has no such form."""
    try:
        return json.dumps(_plain(table), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if key not in INERT}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def neutral_table(table: Mapping[Any, Any], base: type) -> dict[Any, Any]:
    """Return a copy of a configuration's table without what Transformers would act on.

    `base` is Transformers' class of configurations: a key that names one of its methods is no setting. Raises
    `ModelError` where the table names a model that would have to be fetched.
    """
    return {key: _neutral(value, base) for key, value in table.items() if _is_setting(str(key), value, base)}


def _neutral(value: Any, base: type) -> Any:
    if isinstance(value, Mapping):
        return neutral_table(value, base)
    if isinstance(value, list):
        return [_neutral(inner, base) for inner in value]
    if isinstance(value, tuple):
        return tuple(_neutral(inner, base) for inner in value)
    return neutral_config(value, base) if isinstance(value, base) else value


def _is_setting(key: str, value: Any, base: type) -> bool:
    if key in _NAMES_A_MODEL and isinstance(value, str) and ":" in value:
        message = f"`{key}` names the model `{shown(value)}`, which is elsewhere: nothing is fetched for a plan"
        raise ModelError(Diagnostic("DP104", message, help="describe it in the configuration"))
    return key not in INERT and not key.startswith("__") and not callable(getattr(base, key, None))


def neutral_config(config: Any, base: type) -> Any:
    """Return a copy of a Transformers configuration without what Transformers would act on, at every level."""
    made = copy.copy(config)
    for key, value in vars(config).items():
        if key in _RESET:
            made.__dict__[key] = _RESET[key]
        elif _is_setting(key, value, base):
            made.__dict__[key] = _neutral(value, base)
        else:
            del made.__dict__[key]
    return made


def name_in(table: Mapping[Any, Any]) -> str | None:
    """Return the name that a configuration gives its model, the last part of a path or a repository."""
    return str(table.get("_name_or_path") or "").rstrip("/").rpartition("/")[2] or None
