"""Reading the structure of models: modules, configurations, checkpoints, model files.

Owns `load`, which finds a model by any name that a user may give it, and the catalogue. The readers are modules of
their own, and none of them is imported before it is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources.abc import Traversable
from os import PathLike
from pathlib import Path

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.files import LARGEST_FILE
from devpolicy._core.model.files import entries, is_file, is_folder, read_bytes, shown
from devpolicy._core.model.limits import LARGEST_REFERENCE
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.names import is_path, shipped_names, unknown
from devpolicy._core.toml.document import Document

__all__ = ["cached_snapshot", "descriptions", "load", "model_catalogue"]

INDEX = "model_index.json"
"""The file by which a folder is a pipeline of diffusers."""
_INSIDE = re.compile(r"(?!hf://)((?:[A-Za-z]:[\\/])?[^:@]+?)(?::([^:@]+))?(?:@([^:@]+))?(?<=[^/])", re.DOTALL)
"""A folder below another, and a revision: `path:subfolder`, `org/name:subfolder@revision`."""
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(\w[\w.-]*/\w[\w.-]*)", re.ASCII)
"""The address of a model's page on the hub."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def model_catalogue() -> dict[str, Traversable]:
    """Return the models that ship with the package as `{name: file}`, sorted by name."""
    return shipped_names("model")


def descriptions() -> dict[str, str]:
    """Return what each model of the catalogue is, in a line, by name."""
    return {name: dict(load(name).metadata).get("about", "") for name in model_catalogue()}


def load(
    name: str | PathLike[str],
    architecture: str | None = None,
    *,
    variant: str | None = None,
    fetch: bool = True,
) -> ModelTree:
    """Return a model by its name: of the catalogue, a path (model TOML, checkpoint, GGUF, ONNX), of the hub.

    `architecture` names the class of a checkpoint or a configuration, `variant` the files of a checkpoint.

    A catalogue name comes first, so that it means the same in every folder: write `./gpt2` for a folder of that name.
    A hub id (`org/name`) is looked up in the local cache only; `hf://org/name` reads headers from the hub where `fetch`
    allows it, else what was read before. Raises `ModelError`, DP202 with the likely name where
    there is nothing of this name.
    """
    text = name.__fspath__() if isinstance(name, PathLike) else name
    if not isinstance(text, str):
        raise ModelError(f"a model is named by a text or a path object, got {type(name).__name__}")
    catalogue = model_catalogue()
    if isinstance(name, str) and name in catalogue:
        _no_choice(architecture, name)
        return _parse(catalogue[name].read_bytes(), f"{name}.toml")
    if isinstance(name, str) and text.startswith("hf://"):
        from devpolicy._core.model.hub import from_hub

        _no_choice(architecture, text)
        return from_hub(text, fetch=fetch)
    inside = None if os.path.exists(text) else _INSIDE.fullmatch(text)  # noqa: PTH110
    if inside is not None and (inside[2] or inside[3]):
        return _part(inside[1], inside[2], inside[3], architecture, variant)
    found = _from_path(text, architecture, variant)
    if found is not None:
        return found
    if _HUB_ID.fullmatch(text):
        return _from_cache(text, architecture, variant)
    raise ModelError(_unknown(text))


def _unknown(text: str) -> Diagnostic:
    hint = "`devpolicy model list` shows the catalogue; a path counts from the current folder"
    page = _PAGE.match(text)
    if page is not None:
        hint = f"`hf://{page[1]}` reads the headers of that model from the hub"
    return unknown("model", text, hint=hint)


def _part(
    name: str, subfolder: str | None, revision: str | None, architecture: str | None, variant: str | None
) -> ModelTree:
    """Return the model in a folder below another, as a component of a pipeline is, perhaps of a cached revision."""
    folder = Path(name) if is_folder(Path(name)) else None
    if folder is None and _HUB_ID.fullmatch(name):
        folder = cached_snapshot(name, revision)
    elif revision is not None:
        message = f"`{shown(name)}` is no model of the hub, and has no revisions"
        raise ModelError(Diagnostic("DP202", message, help="leave `@` and what follows it out"))
    if folder is None:
        if _HUB_ID.fullmatch(name) is None and not is_path(name):
            raise ModelError(_unknown(f"{name}:{subfolder}"))  # `llama3.1:8b`, as Ollama calls it
        where = f" at `{revision}`" if revision else ""
        message = f"`{shown(name)}` is no folder, and not in the local Hugging Face cache{where}"
        raise ModelError(Diagnostic("DP202", message, help=f"download it first: `hf download {shown(name)}`"))
    if subfolder is None:
        return replace(_from_folder(folder, architecture, variant), name=name.rpartition("/")[2])
    if ".." in Path(subfolder).parts or Path(subfolder).is_absolute() or not is_folder(folder / subfolder):
        inside = ", ".join(f"`{shown(one.name)}`" for one in sorted(entries(folder)) if is_folder(one))
        message = f"`{shown(name)}` has no folder `{shown(subfolder)}`"
        raise ModelError(Diagnostic("DP202", message, help=f"it has {inside}" if inside else "leave `:` out"))
    return _component(folder, subfolder, architecture, variant)


def _component(folder: Path, subfolder: str, architecture: str | None, variant: str | None) -> ModelTree:
    from devpolicy._core.model.pipelines import component_of

    part = component_of(folder, subfolder, variant) if is_file(folder / INDEX) and architecture is None else None
    return _from_folder(folder / subfolder, architecture, variant) if part is None else part


def _from_path(text: str, architecture: str | None, variant: str | None) -> ModelTree | None:
    """Return the model in a file or a folder, `None` where there is neither and none is meant."""
    path = Path(text)
    # Unlike those of a `Path`, these questions take any text: one that is too long, or holds a NUL, is no file.
    is_there = os.path.exists(text)  # noqa: PTH110
    if os.path.isdir(text):  # noqa: PTH112
        return _from_folder(path, architecture, variant)
    if path.suffix == ".gguf" and is_there:
        from devpolicy._core.model.gguf import from_gguf

        _no_choice(architecture, text)
        return from_gguf(path)
    if path.suffix == ".onnx" and is_there:
        from devpolicy._core.model.onnx import from_onnx

        _no_choice(architecture, text)
        return from_onnx(path)
    if path.suffix == ".json" and is_there:
        from devpolicy._core.model.config import from_config

        return from_config(path, architecture)
    if path.suffix == ".toml" or is_there:
        from devpolicy._core.model.model_file import BOUNDS, read

        _no_choice(architecture, text)
        content = read_bytes(path, LARGEST_FILE)
        return read(Document.read(content, str(path), ModelError, str(path.parent), bounds=BOUNDS))
    return None


def _from_cache(hub_id: str, architecture: str | None, variant: str | None) -> ModelTree:
    """Return a model of the hub that was downloaded before."""
    snapshot = cached_snapshot(hub_id)
    if snapshot is None:
        hint = f"read its headers from the hub: `hf://{hub_id}`; or download it first: `hf download {hub_id}`"
        known = hub_id.rpartition("/")[2].lower()
        hint += f"\nor plan `{known}`, which is in the catalogue" if known in model_catalogue() else ""
        raise ModelError(
            Diagnostic("DP202", f"`{hub_id}` is no folder, and not in the local Hugging Face cache", help=hint)
        )
    if is_file(snapshot / INDEX):
        return replace(_from_folder(snapshot, architecture, variant), name=hub_id.rpartition("/")[2])
    from devpolicy._core.model.checkpoint import from_checkpoint

    return from_checkpoint(snapshot, architecture, variant)


def _from_folder(folder: Path, architecture: str | None, variant: str | None) -> ModelTree:
    from devpolicy._core.model.checkpoint import from_checkpoint, has_weights
    from devpolicy._core.model.gguf import from_gguf, gguf_in

    if is_file(folder / INDEX) and not is_file(folder / "config.json"):
        from devpolicy._core.model.pipelines import from_pipeline_folder

        _no_choice(architecture, shown(folder))
        return from_pipeline_folder(folder, variant)
    if not is_file(folder / "config.json"):
        gguf = gguf_in(folder)
        if gguf is not None:
            return from_gguf(gguf)
    if not has_weights(folder):
        from devpolicy._core.model.onnx import from_onnx, onnx_in

        onnx = onnx_in(folder)
        if onnx is not None:
            return from_onnx(onnx)
    return from_checkpoint(folder, architecture, variant)


def _no_choice(architecture: str | None, name: str) -> None:
    """Refuse a class for a model whose structure is written down."""
    if architecture is not None:
        message = f"`architecture` chooses the class of a checkpoint, and `{name}` is a model file with one"
        raise ModelError(Diagnostic("DP106", message, help="leave `architecture` out"))


def _parse(content: bytes, source: str) -> ModelTree:
    from devpolicy._core.model.model_file import parse

    return parse(content, source)


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """Return the folder of a hub model in the local cache: a revision, its `main`, else its only one.

    No network is used. A revision is a branch, a tag or a commit.
    """
    for cache in _caches():
        repository = cache / f"models--{hub_id.replace('/', '--')}"
        reference = Path("refs", *(revision or "main").split("/"))
        if ".." in reference.parts:
            return None
        snapshots, main = repository / "snapshots", repository / reference
        if is_file(main):
            name = read_bytes(main, LARGEST_REFERENCE).decode("utf-8", "replace").strip()
            revisions = [snapshots / name] if Path(name).name == name else []
        elif revision is not None:
            revisions = [snapshots / revision] if Path(revision).name == revision else []
        else:
            revisions = entries(snapshots) if is_folder(snapshots) else []
        if len(revisions) == 1 and is_folder(revisions[0]):
            return revisions[0]
    return None


def _caches() -> Iterator[Path]:
    """Yield the folder that `huggingface_hub` keeps models in, by the variables that it reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]).expanduser()
            return
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    yield Path(home).expanduser() / "hub"
