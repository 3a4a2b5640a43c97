"""From a Transformers configuration to a `ModelTree`, through a model on the meta device.

Owns the use of Transformers' configuration and model classes. Code that a checkpoint brings along (`auto_map`) is never
run. No weights are made: a model of any size costs as much as its modules.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.loading.recognition import quantization_of
from devpolicy._core.loading.value import overriding
from devpolicy._core.model.bounds import check_config, read_config, with_floats
from devpolicy._core.model.built_before import Structure, built_before
from devpolicy._core.model.checkpoint_mapping import renamed_module
from devpolicy._core.model.classes import architectures_of, class_named
from devpolicy._core.model.conversion import as_named
from devpolicy._core.model.facts import named_dtype
from devpolicy._core.model.families import family_tree
from devpolicy._core.model.files import is_file, is_folder, read_json, shown
from devpolicy._core.model.limits import LARGEST_CONFIG
from devpolicy._core.model.module import Built, read_module
from devpolicy._core.model.neutral import config_text, name_in, neutral_config, neutral_table
from devpolicy._core.model.sealed import sealed
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.model.watchdog import watched
from devpolicy._core.toml.tables import did_you_mean, suggest

BUILT_IN = "float16"
"""The dtype that models are built in: what has another one then was given it by the model's code."""

INSTALL = "install Transformers: `pip install 'devpolicy[hf]'`"


@watched()
def from_config(config: Any, architecture: str | None = None) -> ModelTree:
    """Build a configuration's model on the meta device and read it.

    `config` is a Transformers configuration, its table, or the path of a `config.json` or of its folder.
    `architecture` names the model class, by default the configuration's first, else its task-free model. Weights are
    `in_place` but for those that loading converts, as if they came from safetensors. Raises `ModelError`.
    """
    source: Path | None = None
    if isinstance(config, str | PathLike):
        path = path_of(config)
        source = path / "config.json" if is_folder(path) else path
        config = read_config(source)
    if isinstance(config, Mapping):
        table, dtype = config, loaded_dtype(named_dtype(config), ())
        if has_transformers():
            tree = tree_of_config(table, dtype, architecture)
        else:
            tree = _by_template(table, architecture, dtype)
    else:
        model = build(config, architecture)
        table = _table_of(config)
        tree = _tree_of(model, table, loaded_dtype(named_dtype(table), ()))
    loading = replace(tree.loading, overriding=overriding(table))
    beside = said_beside(source.parent) if source is not None and source.name == "config.json" else None
    quantization = tree.quantization or quantization_of(table, beside)
    return replace(tree, quantization=quantization, loading=loading, source=None if source is None else str(source))


def said_beside(folder: Path) -> object:
    """Return what ModelOpt wrote beside the configuration, `None` where it did not."""
    path = folder / "hf_quant_config.json"
    return read_json(path, LARGEST_CONFIG) if is_file(path) else None


def has_transformers() -> bool:
    """Whether Transformers is here, with the torch that its models need."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def _by_template(table: Mapping[str, Any], architecture: str | None, dtype: str) -> ModelTree:
    """Return a configuration's model by template. Raises `ModelError` (DP407) where there is none for it."""
    table = with_floats(table)
    check_config(table)
    named = {**table, "architectures": [architecture]} if architecture is not None else table
    tree = family_tree(named, dtype)
    if tree is None:
        raise _not_here()
    return replace(tree, name=name_in(table) or tree.name)


def _not_here() -> ModelError:
    return ModelError(Diagnostic("DP407", "a configuration is read with Transformers, which is not here", help=INSTALL))


def tree_of_config(config: Mapping[str, Any], dtype: str, architecture: str | None = None) -> ModelTree:
    """Return the tree of a configuration's model as it is loaded in `dtype`. Raises `ModelError`."""

    def make() -> Structure:
        return Structure(built_tree(config, dtype, architecture)[0])

    return built_before(config, dtype, architecture, make).tree


def built_tree(config: Mapping[str, Any], dtype: str, architecture: str | None = None) -> tuple[ModelTree, Any]:
    """Return the tree of a configuration's model as it is loaded in `dtype`, and the model. Raises `ModelError`."""
    model = build(config, architecture)
    return _tree_of(model, config, dtype), model


def _tree_of(model: Any, table: Mapping[str, Any], dtype: str) -> ModelTree:
    tree = read_module(model, name=name_in(table), built=Built(BUILT_IN, dtype))
    quantization = quantization_of(table)
    if quantization is not None:
        quantization = as_named(quantization, partial(renamed_module, model))
    return replace(tree, config=config_text(table), quantization=quantization)


def path_of(given: Any) -> Path:
    """Return a path that a caller gave as text or as a path. Raises `ModelError` for anything else, bytes too."""
    text = given.__fspath__() if isinstance(given, PathLike) else given
    if not isinstance(text, str):
        raise ModelError(f"a path is a text or a path object, got {type(given).__name__}")
    return Path(text)


def build(config: Any, architecture: str | None = None) -> Any:
    """Return a configuration's model on the meta device. Raises `ModelError`."""
    try:
        import torch
        import transformers
    except ImportError:
        raise _not_here() from None
    if architecture is not None and not isinstance(architecture, str):
        raise ModelError(f"`architecture` is the name of a class, got {type(architecture).__name__}")
    base = transformers.PreTrainedConfig
    if isinstance(config, Mapping):
        config = with_floats(config)
        check_config(config)
    elif isinstance(config, base):
        check_config(_table_of(config))
        config = neutral_config(copy.deepcopy(config), base)  # building writes its dtype into the configuration
    else:
        raise ModelError(
            f"a model is built from a Transformers configuration, not from {type(config).__name__} objects"
        )
    with watched(), sealed(), quiet(transformers):
        if isinstance(config, Mapping):
            config = _from_table(config, transformers)
        cls = _model_class(config, architecture, transformers)
        model = _built(_part_for(cls, config), cls, torch, transformers)
    if next(model.parameters(), None) is None:
        name = type(model).__name__
        raise ModelError(Diagnostic("DP202", f"`{name}` is no whole model: it has no weights", help="name its model"))
    return model


def _table_of(config: Any) -> Mapping[Any, Any]:
    try:
        return dict(config.to_dict())
    except Exception as broken:  # whatever its author put into it
        raise ModelError(f"this configuration has no table: {broken}") from broken


def _built(config: Any, cls: Any, torch: Any, transformers: Any) -> Any:
    dtype = getattr(torch, BUILT_IN)
    try:
        with torch.device("meta"):
            if cls is None:
                return transformers.AutoModel.from_config(config, trust_remote_code=False, dtype=dtype)
            return cls._from_config(config, dtype=dtype)
    except ModelError:
        raise
    except Exception as broken:  # model classes raise anything for sizes that do not go together
        raise ModelError(
            f"Transformers cannot build `{config.model_type}` from this configuration: {shown(broken)}"
        ) from broken


def _from_table(table: Mapping[str, Any], transformers: Any) -> Any:
    model_type = table.get("model_type")
    known = list(transformers.CONFIG_MAPPING)
    if model_type is None:
        raise ModelError(Diagnostic("DP105", "the configuration has no `model_type`"))
    if not isinstance(model_type, str):
        raise ModelError(Diagnostic("DP102", f"`model_type` is a text, got {type(model_type).__name__}"))
    if model_type not in known:
        hint = did_you_mean(model_type, known) if suggest(model_type, known) else "a newer Transformers may"
        if table.get("auto_map"):
            hint = (
                "its code comes with the checkpoint, and is not run: load it yourself and use `ModelTree.from_module`"
            )
        raise ModelError(Diagnostic("DP202", f"Transformers does not know the model type `{model_type}`", help=hint))
    values = {str(key): value for key, value in neutral_table(table, transformers.PreTrainedConfig).items()}
    values.pop("model_type", None)
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except ModelError:
        raise
    except Exception as broken:  # configurations validate themselves with errors of many kinds
        raise ModelError(f"Transformers does not accept this configuration of `{model_type}`: {broken}") from broken


def _model_class(config: Any, architecture: str | None, transformers: Any) -> Any:
    """Return the class to build, `None` for the task-free model where the configuration names none."""
    declared = architectures_of({"architectures": getattr(config, "architectures", None)})
    name = architecture if architecture is not None else next(iter(declared), None)
    return None if name is None else class_named(name, config, transformers)


def _part_for(cls: Any, config: Any) -> Any:
    """Return what a class is made of: of a configuration of several parts its own, as loading finds it, else all of it.

    So a `CLIPVisionModel` is loaded from the checkpoint of a `CLIPModel`.
    """
    wanted = getattr(cls, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return config
    names = (wanted.base_config_key, *(config.sub_configs or ()))
    parts = (getattr(config, name, None) for name in names if name)
    return next((part for part in parts if type(part) is wanted), config)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep Transformers from writing of generation defaults and the like: nobody will run this model."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
