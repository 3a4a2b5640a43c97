"""Which class of Transformers a checkpoint is a model of.

Owns the names: what a configuration declares, what a caller asks for (a class or an auto class), and what there is for
a type of model. Whether a class fits is decided by the checkpoint's tensors (`devpolicy._core.model.fit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import shown
from devpolicy._core.toml.tables import did_you_mean

_FIRST = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "MASKED_LM")
"""The tasks whose classes are tried before those of the others."""


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that a configuration names. Raises `ModelError` where they are none (DP102, DP202)."""
    names = config.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ModelError(
            Diagnostic("DP102", "`architectures` is no list of class names", help='`"architectures": ["BertModel"]`')
        )
    auto = next((name for name in names if name.startswith("AutoModel")), None)
    if auto is not None:
        message = f"`{shown(auto)}` is no model class, but a way to choose one"
        raise ModelError(Diagnostic("DP202", message, help='name the class, `"architectures": ["BertModel"]`'))
    return list(names)


def class_named(name: str, config: Any, transformers: Any) -> Any:
    """Return the model class of a name, of an auto class what it picks for `config`. Raises `ModelError` (DP202)."""
    found = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    # Not the base of all: what it would be asked of experts is kept on it, and said of every class from then on.
    base = transformers.PreTrainedModel
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    mapping = getattr(found, "_model_mapping", None)
    family = type(config).__name__.removesuffix("Config")
    if mapping is not None:
        if type(config) in mapping:
            picked = mapping[type(config)]
            return picked[0] if isinstance(picked, list | tuple) else picked
        message = f"`{name}` has no class for models of type `{config.model_type}`"
        raise ModelError(Diagnostic("DP202", message, help="name the model's class"))
    others = (name, "Config", "PreTrainedModel")
    known = [entry for entry in dir(transformers) if entry.startswith(family) and not entry.endswith(others)]
    message = f"`{shown(name)}` is no model class of Transformers"
    raise ModelError(Diagnostic("DP202", message, help=did_you_mean(name, known or [family])))


def classes_for(model_type: str) -> Iterator[str]:
    """Yield the names of the classes that Transformers has for a type of model, those that write text first."""
    from transformers.models.auto import modeling_auto

    tables = {
        key.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES"): value
        for key, value in vars(modeling_auto).items()
        if key.startswith("MODEL_FOR_") and key.endswith("_MAPPING_NAMES")
    }
    tasks = [*_FIRST, *(task for task in tables if task not in _FIRST)]
    seen: set[str] = set()
    for table in (*(tables.get(task, {}) for task in tasks), modeling_auto.MODEL_MAPPING_NAMES):
        names = table.get(model_type, ())
        for name in [names] if isinstance(names, str) else names:
            if name not in seen:
                seen.add(name)
                yield name
