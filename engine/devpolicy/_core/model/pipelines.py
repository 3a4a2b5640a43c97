"""diffusers' pipelines as one `ModelTree` whose parts are the components.

Owns which folders of a pipeline hold weights, in which dtype each component is loaded, and what is known of how its
class is streamed. A component is one part: its inside is known by names alone, which say how large its modules are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import tomli

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.loading.value import Loading
from devpolicy._core.model.catalogue import INDEX
from devpolicy._core.model.checkpoint import from_checkpoint, tree_of_names
from devpolicy._core.model.files import entries, is_file, is_folder, read_json, shown
from devpolicy._core.model.headers import read_headers
from devpolicy._core.model.limits import LARGEST_CONFIG, LARGEST_INDEX, MOST_SHARDS, MOST_TENSORS
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import FLOATING, ModelTree, Module, Tensor
from devpolicy._core.shipped import shipped

LIST = "ModuleList"
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class Streamed:
    """How a class of pipelines is streamed a component at a time."""

    sequence: tuple[str, ...]
    """The components of which one at a time is on the device."""
    stays: tuple[str, ...] = ()
    """Those that stay there, whatever mode is on."""


@cache
def known_pipelines() -> Mapping[str, Streamed]:
    """Return the shipped table, read once in a process."""
    table = tomli.loads(shipped("fixtures").joinpath("pipelines.toml").read_text(encoding="utf-8"))
    return {
        name: Streamed(tuple(row["sequence"].split("->")), tuple(row.get("stays", ())))
        for row in table["pipeline"]
        for name in row["classes"]
    }


def from_pipeline_folder(folder: Path, variant: str | None = None) -> ModelTree:
    """Read a pipeline's folder by its index and the headers of its weights. Raises `ModelError` that names the file."""
    index = read_json(folder / INDEX, LARGEST_CONFIG)
    named = {name: entry for name, entry in index.items() if not name.startswith("_")}
    parts: dict[str, ModelTree] = {}
    for name, entry in named.items():
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)):
            continue  # a setting, or a component that is not there
        if Path(name).name != name or not is_folder(folder / name):
            continue
        tree = _component(folder / name, entry[0], entry[1], variant)
        if tree is not None:
            parts[name] = tree
    if not parts:
        message = f"`{shown(folder)}` is a diffusers pipeline, and none of its components has weights in safetensors"
        raise ModelError(Diagnostic("DP109", message, help="finish the download, without `.bin` files"))
    class_name = index.get("_class_name")
    made = _assembled(str(class_name) if isinstance(class_name, str) else "DiffusionPipeline", parts)
    return replace(made, name=folder.resolve().name, source=str(folder), loading=replace(made.loading, variant=variant))


def component_of(folder: Path, name: str, variant: str | None = None) -> ModelTree | None:
    """Return one component of a pipeline's folder, `None` where its index names none that has weights."""
    entry = read_json(folder / INDEX, LARGEST_CONFIG).get(name)
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)):
        return None
    tree = _component(folder / name, entry[0], entry[1], variant)
    if tree is None or entry[0] == "transformers":
        return tree
    made = _assembled(entry[1], {name: tree})
    return replace(made, name=name, source=str(folder / name))


def is_pipeline(model: Any) -> bool:
    """Whether something is a pipeline that was loaded: an object with components, and no module itself."""
    return isinstance(getattr(model, "components", None), Mapping) and not hasattr(model, "named_modules")


def from_pipeline(pipeline: Any) -> ModelTree:
    """Read a pipeline that was loaded, or made of modules on the meta device."""
    from devpolicy._core.model.module import from_module

    modules = {name: one for name, one in pipeline.components.items() if hasattr(one, "named_modules")}
    if not modules:
        raise ModelError("a pipeline has components that are modules, and this one has none")
    parts = {name: from_module(module, no_split=[]) for name, module in modules.items()}
    return replace(_assembled(type(pipeline).__name__, parts), name=type(pipeline).__name__)


def _component(folder: Path, library: str, class_name: str, variant: str | None) -> ModelTree | None:
    """Return the tree of a component's folder, `None` where it holds no weights."""
    if library == "transformers" and is_file(folder / "config.json") and _has(folder, "model", variant):
        return from_checkpoint(folder, class_name, variant)
    for stem in (_WEIGHTS, "model"):
        files = _files(folder, stem, variant)
        if files:
            break
    else:
        if any(entry.suffix == ".bin" for entry in entries(folder)):
            message = f"`{shown(folder)}` holds pickled weights, which are not opened"
            raise ModelError(Diagnostic("DP109", message, help="download the safetensors files"))
        return None
    headers = read_headers(folder, files)
    if len(headers) > MOST_TENSORS:
        raise ModelError(Diagnostic("DP104", f"`{shown(folder)}` names more than {MOST_TENSORS} tensors, the limit"))
    config = read_json(folder / "config.json", LARGEST_CONFIG) if is_file(folder / "config.json") else {}
    tree = tree_of_names(headers, {}, "a component")
    known = config.get("_class_name")
    top = replace(tree.modules[0], class_name=known if isinstance(known, str) and known else class_name)
    return replace(tree, modules=(top, *tree.modules[1:]), incomplete_reason=None)


def _has(folder: Path, stem: str, variant: str | None) -> bool:
    return bool(_files(folder, stem, variant))


def _files(folder: Path, stem: str, variant: str | None) -> list[str]:
    """Return the safetensors files of a stem and a variant, where a variant has none those without one."""
    for middle in (f".{variant}", "") if variant else ("",):
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if is_file(index):
            return _indexed(index)
        if is_file(folder / f"{stem}{middle}.safetensors"):
            return [f"{stem}{middle}.safetensors"]
    return []


def _indexed(index: Path) -> list[str]:
    mapped = read_json(index, LARGEST_INDEX, 2 * MOST_TENSORS).get("weight_map")
    files = set(mapped.values()) if isinstance(mapped, dict) else set()
    if not files or len(files) > MOST_SHARDS or not all(isinstance(one, str) for one in files):
        raise ModelError(Diagnostic("DP105", f"`{shown(index)}` has no `weight_map` of files"))
    strange = next((one for one in sorted(files) if Path(one).name != one or "\\" in one), None)
    if strange is not None:
        message = f"`{shown(index)}` names `{shown(strange)}`, which is no file of this folder"
        raise ModelError(Diagnostic("DP104", message))
    return sorted(files)


def _assembled(class_name: str, parts: Mapping[str, ModelTree]) -> ModelTree:
    modules = [Module("", class_name)]
    ties: list[tuple[str, ...]] = []
    dtypes: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for name, tree in parts.items():
        if "." in name or not name:
            raise ModelError(Diagnostic("DP104", f"`{shown(name)}` is no name of a component"))
        dtype = _dtype(tree)
        if dtype is not None:
            dtypes[name] = dtype
            sizes[dtype] += tree.bytes_as()
        modules += _below(name, tree, dtype)
        ties += [tuple(join(name, tensor) for tensor in group) for group in tree.ties]
    common = max(sizes, key=lambda one: (sizes[one], one), default=None)
    return ModelTree(
        name="",
        modules=tuple(modules),
        ties=tuple(ties),
        no_split=frozenset(tree.modules[0].class_name for tree in parts.values()),
        dtype=common,
        format="diffusers",
        loading=Loading(architecture=class_name, dtypes=tuple(dtypes.items())),
    )


def _dtype(tree: ModelTree) -> str | None:
    """Return the dtype of most of a component's bytes: it is loaded in one."""
    sizes: Counter[str] = Counter()
    for module in tree.modules:
        for tensor in module.tensors:
            if tensor.dtype in FLOATING and not tensor.buffer and not tensor.float32_in:
                sizes[tensor.dtype] += tensor.bytes_as(None)
    return max(sizes, key=lambda one: (sizes[one], one), default=None)


def _below(name: str, tree: ModelTree, dtype: str | None) -> Iterator[Module]:
    for at, module in enumerate(tree.modules):
        numbered = [tree.modules[child].path.rpartition(".")[2] for child in tree.children(at)]
        listed = at and numbered and not module.tensors and all(one.isdecimal() for one in numbered)
        yield replace(
            module,
            path=join(name, module.path) if module.path else name,
            class_name=LIST if listed else module.class_name,
            tensors=tuple(_loaded(module.tensors, dtype)),
        )


def _loaded(tensors: Iterable[Tensor], dtype: str | None) -> Iterator[Tensor]:
    for tensor in tensors:
        converted = tensor.dtype_as(dtype)
        yield tensor if converted == tensor.dtype or tensor.packed is not None else replace(tensor, dtype=converted)
