"""Which structure a checkpoint has: the class whose tensors it holds, by a template or by what Transformers builds.

Owns the choice. Names in a checkpoint are not names of modules (Mixtral's `block_sparse_moe.experts.0.w1` is part of
`mlp.experts.gate_up_proj`), so each structure comes with where its tensors are found. No file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from devpolicy._core.errors import ModelError
from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.model.built_before import Structure, built_before, version_of
from devpolicy._core.model.checkpoint_mapping import Source, checkpoint_mapping
from devpolicy._core.model.classes import architectures_of, classes_for
from devpolicy._core.model.config import INSTALL, built_tree
from devpolicy._core.model.config import has_transformers as has_transformers
from devpolicy._core.model.conversion import converted_paths, packed_as
from devpolicy._core.model.facts import dtype_of
from devpolicy._core.model.families import classes_of, family_tree, templates_hold
from devpolicy._core.model.files import shown
from devpolicy._core.model.fit import Fit, fit_of
from devpolicy._core.model.headers import Stored
from devpolicy._core.model.ranges import join
from devpolicy._core.model.templates.names import targets
from devpolicy._core.model.tree import ModelTree


def _whole(key: str, ends: tuple[str, ...]) -> str:
    """Return the name of the weight that a stored tensor is a part of, or its own."""
    end = next((end for end in ends if key.endswith(end)), None)
    return key if end is None else f"{key.removesuffix(end)}.weight"


class _Checkpoint(NamedTuple):
    """What a checkpoint stores, and how it is quantised."""

    headers: Mapping[str, Stored]
    quantization: Quantization | None

    def fit(self, tree: ModelTree, sources: Iterable[Source], model: Any = None) -> Fit:
        """Compare a model's tensors with what is stored, leaving out what is quantised."""
        fit = fit_of(tree, sources, self.headers, model)
        quantization = tree.quantization or self.quantization
        return fit if quantization is None else fit.beside(converted_paths(tree, quantization))

    def sources(self, mapping: Callable[[Iterable[str]], Iterable[Source]]) -> tuple[Source, ...]:
        """Return what each stored tensor fills, by what the weights fill of which they are parts."""
        ends = packed_as(self.quantization)
        if not ends:
            return tuple(mapping(self.headers))
        weights = {key: _whole(key, ends) for key in self.headers}
        found = {source.key: source for source in mapping(dict.fromkeys(weights.values()))}
        return tuple(
            found[weight] if weight == key else Source(key, found[weight].targets, converted=True)
            for key, weight in weights.items()
        )


def structure_of(
    config: dict[str, Any],
    headers: Mapping[str, Stored],
    architecture: str | None,
    quantization: Quantization | None = None,
) -> tuple[Structure | None, str]:
    """Return the structure whose names and shapes are the checkpoint's, or `None` and the reason why there is none.

    Of what is quantised only the names of the modules are compared.

    A class that the caller asks for is taken where it can be loaded at all, one that the configuration names where the
    tensors do not refute it. Any other has to fit completely.
    """
    dtype = loaded_dtype(dtype_of(config), (headers[name].dtype for name in sorted(headers)))
    named = architecture or next(iter(architectures_of(config)), None)
    reason = f"nothing here knows the structure of `{config.get('model_type')}` models: {INSTALL}"
    closest: tuple[int, str] | None = None
    stored = _Checkpoint(headers, quantization)
    for name, read in _readings(config, stored, dtype, named, only=architecture is not None):
        try:
            structure = read()
        except ModelError as broken:
            if closest is None and name == named:
                reason = broken.diagnostics[0].message if broken.diagnostics else str(broken)
            continue
        if structure is None:
            continue
        fit = structure.fit
        asked = architecture is not None and not fit.reshaped and len(fit.unplaced) < len(headers)
        if fit.complete or asked or (name == named and not fit.refuted):
            return _with_notes(structure, named), ""
        differences = len(fit.unplaced) + len(fit.missing) + len(fit.reshaped)
        if closest is None or differences < closest[0]:
            nothing = len(fit.unplaced) == len(headers)
            closest = differences, _NO_PLACE if nothing else _another(structure.tree.modules[0].class_name, fit)
    return None, reason if closest is None else closest[1]


_NO_PLACE = "none of its tensors has a place in the model that its `config.json` describes"


def _another(cls: str, fit: Fit) -> str:
    return f"its tensors are those of no class that is known here; compared with `{cls}`: {'; '.join(fit.notes())}"


def _with_notes(structure: Structure, named: str | None) -> Structure:
    """Return a structure with notes on how it differs from its checkpoint."""
    tree, notes = structure.tree, list(structure.fit.notes())
    cls = tree.modules[0].class_name
    if named is not None and cls != named and not named.startswith("Auto"):
        notes.insert(0, f"`{shown(named)}` is named, and the tensors are those of `{cls}`")
    loading = replace(tree.loading, notes=tuple(notes), made_anew=structure.fit.missing)
    return structure._replace(tree=replace(tree, loading=loading))


def _readings(
    config: dict[str, Any], stored: _Checkpoint, dtype: str, named: str | None, *, only: bool
) -> Iterator[tuple[str | None, Callable[[], Structure | None]]]:
    """Yield ways to read the structure: of the class that is named, then of others, by templates before Transformers.

    Each comes with the class it is for. `only` leaves out every class but the named one.
    """
    model_type = str(config.get("model_type"))
    here = has_transformers()
    templates = not here or templates_hold(model_type, version_of("transformers"))
    others = [] if only else [name for name in classes_of(model_type) if name != named]
    for names in ([] if named is None else [named], others):
        for name in names if templates else ():
            yield name, partial(_by_template, config, stored, dtype, name)
        if here and names is others and not only:
            names = [name for name in classes_for(model_type) if name != named]
        for name in names if here else ():
            yield name, partial(_by_transformers, config, stored, dtype, name)
    if here and named is None:
        yield None, partial(_by_transformers, config, stored, dtype, None)


def _by_template(config: dict[str, Any], stored: _Checkpoint, dtype: str, architecture: str) -> Structure | None:
    """Return a class's structure by template; where Transformers is here, only if the checkpoint fits it."""
    tree = family_tree({**config, "architectures": [architecture]}, dtype)
    if tree is None:
        return None
    sources = stored.sources(partial(_template_sources, tree, config))
    fit = stored.fit(tree, sources)
    return Structure(tree, sources, fit) if fit.complete or not has_transformers() else None


def _by_transformers(config: dict[str, Any], stored: _Checkpoint, dtype: str, architecture: str | None) -> Structure:
    def make() -> Structure:
        tree, model = built_tree(config, dtype, architecture)
        sources = stored.sources(partial(checkpoint_mapping, model))
        return Structure(tree, sources, stored.fit(tree, sources, model))

    return built_before(config, dtype, architecture, make, stored.headers, stored.quantization)


def _template_sources(tree: ModelTree, config: Mapping[str, Any], keys: Iterable[str]) -> Iterable[Source]:
    model_type, known = str(config.get("model_type")), frozenset(tree.tensor_names())
    converted = {
        join(module.path, tensor.name) for module in tree.modules if not module.in_place for tensor in module.tensors
    }
    for key in keys:
        found = targets(model_type, key, known)
        # What a newer Transformers saved is loaded as it is.
        yield Source(key, found, converted=key not in found and not converted.isdisjoint(found))
