"""Which weights Transformers converts while it loads them, and under which names it looks for them.

Owns the use of Transformers' conversion rules (version 5 fuses experts, splits fused projections, renames). A converted
weight cannot be read from the checkpoint as it is: stored on disk, it is written there again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class Source(NamedTuple):
    """Where loading finds a tensor: its name in the checkpoint, the names in the model that it fills."""

    key: str
    targets: tuple[str, ...]
    converted: bool


class Converted(NamedTuple):
    """What converting a tensor takes beside its own bytes."""

    copies: int
    """How many times its own bytes are beside it while it is made; 0 where it is a part of what is stored."""
    kept: int = 0
    """Elements of the larger tensor that it is a part of, which stay with it: the other parts were copied."""


_JOIN_ALL_SOURCES = ("ErnieFuseAndSplitTextVisionExperts", "ErnieSplitAndDecoupleTextVisionExperts")
"""Operations of Transformers 5.20 to 5.22 that join parts, then parts of all sources."""


def converted_names(found: Iterable[tuple[str, Any]]) -> dict[str, Converted]:
    """Return the full names of tensors that loading converts, for the Transformers models among modules by path.

    Each with what that takes. Parents come first. Read from the rules alone, as if the checkpoint were in its published
    form.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return {}  # then none is one of its models
    names: dict[str, Converted] = {}
    models = [(path, part) for path, part in found if isinstance(part, transformers.PreTrainedModel)]
    for path, model in outermost(models):
        rules = [(rule, rule.reverse_transform()) for rule in _rules(_Known(model, path, models))[1]]
        prefix = f"{path}." if path else ""
        tensors = model.state_dict(keep_vars=True) if rules else {}
        made: dict[tuple[int, str], list[tuple[str, str]]] = {}
        for name in tensors:
            for at, (_, back) in enumerate(rules):
                stored, pattern = back.rename_source_key(name)
                if pattern is not None:
                    made.setdefault((at, stored), []).append((name, pattern))
                    break
        for (at, _), parts in made.items():
            rule = rules[at][0]
            kept = _kept(rule, parts, tensors)
            count = 0 if kept else _copies(rule)
            names |= {prefix + name: Converted(count, kept.get(name, 0)) for name, _ in parts}
    return names


def _copies(rule: Any) -> int:
    """Return how many times the bytes of each tensor that a rule makes are beside it: what all of them are made of."""
    if getattr(rule, "force_cpu", False) or all(map(_is_by_rows, rule.operations)):
        return 0
    # They join parts, then parts of all sources. Before 5.23 none said so of itself, and two did it.
    several = any(
        getattr(one, "supports_many_to_many", type(one).__name__ in _JOIN_ALL_SOURCES) for one in rule.operations
    )
    return len(rule.target_patterns) + several


def _is_by_rows(operation: Any) -> bool:
    """Return whether an operation makes parts of a tensor that stay in its memory."""
    return type(operation).__name__ in ("Chunk", "Split") and operation.dim == 0


def _kept(rule: Any, parts: list[tuple[str, str]], tensors: Mapping[str, Any]) -> dict[str, int]:
    """Return the elements that a part by rows keeps beside its own: those of the parts that are copied after it."""
    first, *later = rule.operations
    if not (_is_by_rows(first) and later):
        return {}
    whole = [name for name, pattern in parts if not any(_changes(one, pattern) for one in later)]
    copied = sum(tensors[name].numel() for name, _ in parts if name not in whole)
    return {whole[0]: copied} if whole and copied else {}


def _changes(operation: Any, pattern: str) -> bool:
    """Return whether an operation makes another tensor of the part of a pattern."""
    names = getattr(operation, "permute_layer_names", None)
    return names is None or any(name in pattern for name in names)


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


def renamed_module(model: Any, path: str) -> str:
    """Return the path in a Transformers model of a module that is named as a checkpoint names it."""
    renamed = f"{path}."
    for rule in (one for rules in _rules(model) for one in rules):
        renamed, _ = rule.rename_source_key(renamed)
    return str(renamed).removesuffix(".")


def outermost(models: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the models that are inside no other one, of models by path, the outer ones first."""
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
