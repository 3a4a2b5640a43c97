"""Whether the tensors of a checkpoint are those of a model.

Owns the comparison of names and shapes. A stored tensor without a place in the model is not loaded, and a tensor of the
model that nothing fills is made anew: a class for which both are so is another model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from devpolicy._core.model.checkpoint_mapping import Source
from devpolicy._core.model.headers import Stored
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import ModelTree

_NOT_WEIGHTS = (r"rotary_emb\.inv_freq$", r"position_ids$", r"attn\.(masked_)?bias$")
"""Buffers that older versions of Transformers stored and that every model computes."""
_LISTED = 4


class Fit(NamedTuple):
    """What a model and a checkpoint have alone."""

    unplaced: tuple[str, ...]
    """Stored tensors that have no place in the model."""
    missing: tuple[str, ...]
    """Parameters of the model that no stored tensor fills."""
    reshaped: tuple[str, ...]
    """Parameters that are stored with another shape."""

    @property
    def complete(self) -> bool:
        """Whether every stored tensor is a parameter and every parameter is stored."""
        return not (self.unplaced or self.missing or self.reshaped)

    @property
    def refuted(self) -> bool:
        """Whether the checkpoint is another model's."""
        return bool(self.reshaped or (self.unplaced and self.missing))

    def beside(self, paths: frozenset[str]) -> Fit:
        """Return the fit of what is stored outside of some modules: quantised ones, whose tensors have other names."""

        def outside(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if not any(path in paths for path in ancestors(name)))

        return Fit(outside(self.unplaced), outside(self.missing), outside(self.reshaped))

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each of the differences."""
        said = (
            (self.unplaced, "stored without a place in the model, so not loaded"),
            (self.missing, "not stored, so made anew"),
            (self.reshaped, "stored with another shape"),
        )
        return tuple(f"{_listed(names)}: {what}" for names, what in said if names)


def ancestors(name: str) -> Iterator[str]:
    """Yield the paths of the modules around a name, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def fit_of(tree: ModelTree, sources: Iterable[Source], headers: Mapping[str, Stored], model: Any = None) -> Fit:
    """Compare a model's tensors with a checkpoint's. The built `model` names tensors that do not count."""
    tensors = {
        join(module.path, tensor.name): tensor
        for module in tree.modules
        for tensor in module.tensors
        if tensor.persistent
    }
    filled: set[str] = set()
    unplaced, reshaped = [], []
    unexpected = _patterns(model, "_keys_to_ignore_on_load_unexpected", _NOT_WEIGHTS)
    for source in sources:
        targets = [target for target in source.targets if target in tensors]
        filled.update(targets)
        if not targets and not any(pattern.search(source.key) for pattern in unexpected):
            unplaced.append(source.key)
        if not source.converted:
            shape = headers[source.key].shape
            reshaped += [target for target in targets if tensors[target].shape != shape]
    for group in tree.ties:
        if any(name in filled for name in group):
            filled.update(group)
    optional = _patterns(model, "_keys_to_ignore_on_load_missing", ())
    missing = [
        name
        for name, tensor in tensors.items()
        if name not in filled and not tensor.buffer and not any(pattern.search(name) for pattern in optional)
    ]
    return Fit(tuple(unplaced), tuple(missing), tuple(reshaped))


def _patterns(model: Any, key: str, more: Iterable[str]) -> list[re.Pattern[str]]:
    return [re.compile(text) for text in (*more, *(getattr(model, key, None) or ()))]


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{name[:80]}`" for name in names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
