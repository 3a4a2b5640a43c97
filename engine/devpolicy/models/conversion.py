"""Which weights Transformers converts while it loads them, and under which names it looks for them.

Owns the use of Transformers' conversion rules (version 5 fuses experts, splits fused projections, renames). A converted
weight cannot be read from the checkpoint as it is: kept on disk, it is written there again.
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


def converted_names(module: Any) -> frozenset[str]:
    """Return the full names of tensors that loading converts, for a Transformers model or a module that holds one.

    Read from the rules alone, as if the checkpoint were in its published form. Empty for any other module.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return frozenset()  # then this is none of its models
    names: set[str] = set()
    for path, model in _models(module, transformers):
        reversed_rules = [rule.reverse_transform() for rule in _rules(model)[1]]
        prefix = f"{path}." if path else ""
        if reversed_rules:
            names.update(
                prefix + name
                for name in model.state_dict(keep_vars=True)
                if any(rule.rename_source_key(name)[1] is not None for rule in reversed_rules)
            )
    return frozenset(names)


def sources(model: Any, keys: Iterable[str]) -> Iterator[Source]:
    """Yield for each key of a checkpoint what it fills in a Transformers model, by the rules that loading follows."""
    from transformers.core_model_loading import rename_source_key

    renamings, converters = _rules(model)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    meta = model.state_dict(keep_vars=True)
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, meta)
        if pattern is None:
            yield Source(key, (name,), converted=False)
            continue
        first, *others = by_pattern[pattern].target_patterns
        names = (name, *(name.replace(first, other) for other in others))
        yield Source(key, tuple(target for target in names if target in meta), converted=True)


def _models(module: Any, transformers: Any) -> Iterator[tuple[str, Any]]:
    """Yield the outermost Transformers models in a module."""
    outer: list[str] = []
    base = transformers.PreTrainedModel
    if isinstance(module, base):
        yield "", module
        return
    for path, part in module.named_modules():
        if isinstance(part, base) and not any(path.startswith(f"{above}.") for above in outer):
            outer.append(path)
            yield path, part


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
