"""From a Transformers configuration to a `ModelTree`, through a model on the meta device.

Owns the use of Transformers' configuration and model classes. Code that a checkpoint brings along (`auto_map`) is never
run. No weights are made: a model of any size costs as much as its modules.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError, reason_of
from devpolicy._core.model.module import read_module
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.toml.tables import did_you_mean, suggest

LARGEST_JSON = 64 << 20
"""An index of a million tensors has this size."""

INSTALL = "install Transformers: `pip install 'devpolicy[hf]'`"


def from_config(config: Any, architecture: str | None = None) -> ModelTree:
    """Build a configuration's model on the meta device and read it.

    `config` is a Transformers configuration, its table, or the path of a `config.json` or of its folder.
    `architecture` names the model class, by default the configuration's first, else its task-free model. Weights are
    `in_place` but for those that loading converts, as if they came from safetensors. Raises `ModelError`.
    """
    if isinstance(config, str | PathLike):
        path = Path(config)
        config = read_json(path / "config.json" if path.is_dir() else path)
    tree = read_module(build(config, architecture), unloaded=True)
    method = quantisation(config if isinstance(config, Mapping) else config.to_dict())
    return tree if method is None else replace(tree, partial=f"its weights are quantised (`{method}`), these are not")


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Return how the weights of a checkpoint are quantised, by its configuration, or `None`."""
    given = config.get("quantization_config")
    if not given:
        return None
    return str(given.get("quant_method", "unknown")) if isinstance(given, Mapping) else "unknown"


def build(config: Any, architecture: str | None = None) -> Any:
    """Return a configuration's model on the meta device. Raises `ModelError`."""
    try:
        import torch
        import transformers
    except ImportError:
        raise ModelError(
            Diagnostic("DP407", "a configuration is read with Transformers, which is not here", help=INSTALL)
        ) from None
    if isinstance(config, Mapping):
        config = _from_table(config, transformers)
    elif not isinstance(config, transformers.PreTrainedConfig):
        raise ModelError(
            f"a model is built from a Transformers configuration, not from {type(config).__name__} objects"
        )
    else:
        config = copy.deepcopy(config)  # building writes its dtype into the configuration
    cls = _model_class(config, architecture, transformers)
    try:
        with torch.device("meta"), _quiet(transformers):
            return _task_free(config, transformers) if cls is None else cls._from_config(config)
    except Exception as broken:  # model classes raise anything for sizes that do not go together
        raise ModelError(
            f"Transformers cannot build `{config.model_type}` from this configuration: {broken}"
        ) from broken


def _from_table(table: Mapping[str, Any], transformers: Any) -> Any:
    values = {str(key): value for key, value in table.items()}
    model_type = values.pop("model_type", None)
    known = list(transformers.CONFIG_MAPPING)
    if model_type not in known:
        if model_type is None:
            raise ModelError(Diagnostic("DP105", "the configuration has no `model_type`"))
        hint = did_you_mean(str(model_type), known) if suggest(str(model_type), known) else "a newer Transformers may"
        if values.get("auto_map"):
            hint = (
                "its code comes with the checkpoint, and is not run: load it yourself and use `ModelTree.from_module`"
            )
        raise ModelError(Diagnostic("DP202", f"Transformers does not know the model type `{model_type}`", help=hint))
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except Exception as broken:  # configurations validate themselves with errors of many kinds
        raise ModelError(f"Transformers does not accept this configuration of `{model_type}`: {broken}") from broken


def _model_class(config: Any, architecture: str | None, transformers: Any) -> Any:
    """Return the class to build, `None` for the task-free model."""
    declared = [architecture] if architecture else list(getattr(config, "architectures", None) or [])[:1]
    for name in declared:
        cls = getattr(transformers, str(name), None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
        if architecture:
            family = type(config).__name__.removesuffix("Config")
            known = [entry for entry in dir(transformers) if entry.startswith(family)] or [family]
            hint = did_you_mean(architecture, known)
            raise ModelError(Diagnostic("DP202", f"`{architecture}` is no model class of Transformers", help=hint))
    return None


def _task_free(config: Any, transformers: Any) -> Any:
    return transformers.AutoModel.from_config(config)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep Transformers from writing of generation defaults and the like: nobody will run this model."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file. Raises `ModelError` that names the file (DP109, DP101, DP102)."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_JSON + 1)
    except (OSError, ValueError) as broken:
        raise ModelError(Diagnostic("DP109", f"cannot read `{path}`: {reason_of(broken)}")) from None
    if len(content) > LARGEST_JSON:
        raise ModelError(Diagnostic("DP101", f"`{path}` is larger than {LARGEST_JSON >> 20} MiB"))
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as broken:
        raise ModelError(Diagnostic("DP101", f"`{path}` is no JSON: {broken}")) from None
    if not isinstance(table, dict):
        raise ModelError(Diagnostic("DP102", f"`{path}` does not hold an object"))
    return table
