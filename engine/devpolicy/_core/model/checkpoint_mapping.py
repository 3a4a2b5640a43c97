"""Which weights Transformers converts while it loads them, and under which names it looks for them.

Owns the use of Transformers' conversion rules (version 5 fuses experts, splits fused projections, renames). A converted
weight cannot be read from the checkpoint as it is: stored on disk, it is written there again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Source(NamedTuple):
    """Where loading finds a tensor: its name in the checkpoint, the names in the model that it fills."""

    key: str
    targets: tuple[str, ...]
    converted: bool


def converted_names(found: Iterable[tuple[str, Any]]) -> dict[str, bool]:
    """Return the full names of tensors that loading converts, for the Transformers models among modules by path.

    Each with whether it is made beside what it is made of, and is no part of it. Parents come first. Read from the
    rules alone, as if the checkpoint were in its published form.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return {}  # then none is one of its models
    names: dict[str, bool] = {}
    models = [(path, part) for path, part in found if isinstance(part, transformers.PreTrainedModel)]
    for path, model in outermost(models):
        rules = [(rule.reverse_transform(), _is_copy(rule)) for rule in _rules(_Known(model, path, models))[1]]
        prefix = f"{path}." if path else ""
        for name in model.state_dict(keep_vars=True) if rules else ():
            copied = next((copied for rule, copied in rules if rule.rename_source_key(name)[1] is not None), None)
            if copied is not None:
                names[prefix + name] = copied
    return names


def _is_copy(rule: Any) -> bool:
    """Return whether a rule makes new tensors on the device of what it converts: a part by rows is none."""
    by_rows = all(type(one).__name__ in ("Chunk", "Split") and one.dim == 0 for one in rule.operations)
    return not (by_rows or getattr(rule, "force_cpu", False))


def checkpoint_mapping(model: Any, keys: Iterable[str]) -> Iterator[Source]:
    """Yield for each key of a checkpoint what it fills in a Transformers model, by the rules that loading follows."""
    from transformers.core_model_loading import rename_source_key

    renamings, converters = _rules(model)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    meta = model.state_dict(keep_vars=True)
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, meta)
        if name not in meta and key in meta:  # a rule of another form of the checkpoint, which is not followed then
            name, pattern = rename_source_key(key, [], [], model.base_model_prefix, meta)
        if pattern is None:
            yield Source(key, (name,), converted=False)
            continue
        first, *others = by_pattern[pattern].target_patterns
        names = (name, *(name.replace(first, other) for other in others))
        yield Source(key, tuple(target for target in names if target in meta), converted=True)


def outermost(models: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the models that stand in no other, of models by path, the outer ones first."""
    outer: list[str] = []
    for path, model in models:
        if not any(not above or path.startswith(f"{above}.") for above in outer):
            outer.append(path)
            yield path, model


class _Known:
    """A model in which Transformers looks for models: those that are known, without a walk over all its modules."""

    def __init__(self, model: Any, path: str, models: Iterable[tuple[str, Any]]) -> None:
        self._model = model
        prefix = f"{path}." if path else ""
        inner = {id(one): (name.removeprefix(prefix), one) for name, one in models if name.startswith(prefix)}
        self._models = [("", model), *(pair for key, pair in inner.items() if key != id(model))]

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """Yield the model and those inside it, each once, by path."""
        return iter(self._models)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _rules(model: Any) -> tuple[list[Any], list[Any]]:
    """Return the rules for a model's checkpoints: those that rename, and those that convert."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming
    except ImportError:  # before version 5 nothing was converted
        return [], []
    rules = get_model_conversion_mapping(model)
    return (
        [rule for rule in rules if isinstance(rule, WeightRenaming)],
        [rule for rule in rules if isinstance(rule, WeightConverter)],
    )
