"""From a checkpoint folder to a `ModelTree`.

Owns what a folder holds and how headers and structure come together. Names in a checkpoint are not names of modules
(Mixtral's `block_sparse_moe.experts.0.w1` is part of `mlp.experts.gate_up_proj`), and headers know no classes, ties or
order: the structure is what Transformers builds from `config.json`, else a template of the family, and where there is
neither, a tree of the names that says of itself that it is `partial`. No weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.loading.recognition import quantization_of
from devpolicy._core.loading.value import overriding
from devpolicy._core.model import structure
from devpolicy._core.model.bounds import read_config
from devpolicy._core.model.built_before import Structure
from devpolicy._core.model.classes import architectures_of
from devpolicy._core.model.config import INSTALL, path_of, said_beside, tree_of_config
from devpolicy._core.model.conversion import packed_as, stored_plain
from devpolicy._core.model.facts import derive, named_dtype
from devpolicy._core.model.families import family_tree
from devpolicy._core.model.files import entries, is_file, is_folder, is_special, read_json, shown
from devpolicy._core.model.folders import other_kind, other_library
from devpolicy._core.model.generation import stored_beams, stored_cache
from devpolicy._core.model.headers import Stored, read_headers, same_bytes, too_many
from devpolicy._core.model.limits import (
    DEEPEST_PATH,
    LARGEST_INDEX,
    LARGEST_TREE,
    MOST_SHARDS,
    MOST_TENSORS,
)
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import ModelTree, Module, Tensor
from devpolicy._core.model.watchdog import watched

_INDEX, _SINGLE = "model.safetensors.index{}.json", "model{}.safetensors"
"""The names of the files, with the variant in the middle: `model.fp16.safetensors`."""
_PICKLES = ("pytorch_model.bin.index.json", "pytorch_model.bin")
_VARIANT = re.compile(
    r"model\.safetensors\.index\.([\w-]{1,40})\.json|model\.(?!safetensors\.)([\w-]{1,40})\.safetensors"
)
UNKNOWN_CLASS = "Unknown"
"""The class of modules that are known from a checkpoint's names alone."""


@watched()
def from_checkpoint(
    folder: str | PathLike[str], architecture: str | None = None, variant: str | None = None
) -> ModelTree:
    """Read a checkpoint folder: what is stored from the safetensors headers, structure and dtypes from `config.json`.

    A module is `in_place` where its tensors are stored in safetensors under a name and with a shape that loading uses
    as they are. The class is `architecture`, a class or an auto class, else the one that the configuration names,
    unless the tensors are those of another. The files are those of a `variant`, by default those without one; where the
    folder has only files of variants, those of the first. Folders of `pytorch_model.bin` are read by configuration
    alone, and nothing of them is in place. Weights that are quantised are in the tree as they are without, with how
    they are quantised beside them; weights whose structure nothing here knows give an incomplete tree of the stored
    names.

    Raises `ModelError` that names the file: no folder, no `config.json`, no weights, a missing shard, a damaged header.
    """
    path = path_of(folder)
    if not is_folder(path):
        what = "is a file" if is_file(path) else "is a pipe or a device" if is_special(path) else "does not exist"
        hint = "name the folder that holds `config.json` and the weights"
        raise ModelError(Diagnostic("DP109", f"`{shown(path)}` is no checkpoint folder: it {what}", help=hint))
    config = read_config(_present(path, "config.json"))
    architectures_of(config)
    foreign = other_library(config, path)
    if foreign is not None:
        raise ModelError(foreign)
    weights, variant = _weights(path, variant)
    tree = _read(path, config, weights, architecture)
    beams = stored_beams(path)
    return replace(
        tree,
        name=path.resolve().name,
        source=str(path),
        beams=tree.beams if beams is None else beams,
        loading=replace(tree.loading, variant=variant, overriding=overriding(config), cache=stored_cache(path)),
    )


def _read(path: Path, config: dict[str, Any], weights: dict[str, str] | None, architecture: str | None) -> ModelTree:
    """Return the tree of a checkpoint whose `weights` are in these files, or in pickles."""
    if weights is None:
        return _without_headers(path, config, architecture)
    headers = read_headers(path, sorted(set(weights.values())))
    lost = next((key for key in weights if key and key not in headers), None)
    if lost is not None:
        raise ModelError(
            Diagnostic("DP104", f"`{path / weights[lost]}` does not hold `{lost}`, which the index promises")
        )
    quantization = quantization_of(config, said_beside(path), headers)
    found, reason = structure.structure_of(config, headers, architecture, quantization)
    if quantization is not None:
        named = None if found is None else found.tree.quantization
        size = sum(stored.end - stored.begin for stored in headers.values())
        quantization = replace(named or quantization, stored=size)
    tree = tree_of_names(headers, config, reason) if found is None else _overlay(found, headers)
    if quantization is not None and found is not None:
        stored = {
            target: (headers[source.key].shape, headers[source.key].dtype, source.converted)
            for source in found.sources
            if not source.key.endswith(packed_as(quantization))
            for target in source.targets
        }
        quantization = stored_plain(quantization, found.tree, stored)
    return replace(tree, quantization=quantization)


def _present(folder: Path, file: str) -> Path:
    path = folder / file
    if is_special(path):
        raise ModelError(Diagnostic("DP109", f"cannot read `{path}`: it is a pipe, a device or a socket, no file"))
    if not is_file(path):
        other = other_kind(folder)
        if other is not None:
            raise ModelError(other)
        inside = sorted(entry.name for entry in entries(folder))[:8]
        note = f"it holds {', '.join(f'`{shown(entry)}`' for entry in inside)}" if inside else "it is empty"
        raise ModelError(Diagnostic("DP109", f"`{folder}` is no checkpoint: it has no `{file}`", notes=(note,)))
    return path


def _weights(folder: Path, variant: str | None) -> tuple[dict[str, str] | None, str | None]:
    """Return the safetensors file of each tensor, `None` where there are only pickles, and the variant of the files."""
    found = _files(folder, variant)
    if found is not None:
        return found, variant
    if variant is None and any(is_file(folder / file) for file in _PICKLES):
        return None, None
    matches = filter(None, (_VARIANT.fullmatch(entry.name) for entry in entries(folder)))
    variants = sorted({match[1] or match[2] for match in matches})
    if variant is None and variants:
        return _files(folder, variants[0]), variants[0]
    what = f"no weights: neither `{_SINGLE.format('')}` nor `{_INDEX.format('')}` nor `{_PICKLES[1]}`"
    help_ = f"for a model without weights, name `{folder / 'config.json'}`"
    if variant is not None:
        what, help_ = f"no files of the variant `{variant}`", "leave `variant` out"
        if variants:
            help_ = f"it has {', '.join(f'`{shown(name)}`' for name in variants[:4])}"
    raise ModelError(Diagnostic("DP109", f"`{folder}` has {what}", help=help_))


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights that are read as a checkpoint, of any variant."""
    return any(
        entry.name in (*_PICKLES, _INDEX.format(""), _SINGLE.format("")) or _VARIANT.fullmatch(entry.name)
        for entry in entries(folder)
    )


def _files(folder: Path, variant: str | None) -> dict[str, str] | None:
    """Return the safetensors file of each tensor, of `""` for a single file; `None` where there is none."""
    middle = "" if variant is None else f".{variant}"
    index, single = folder / _INDEX.format(middle), folder / _SINGLE.format(middle)
    if is_file(index) or is_special(index):
        return _indexed(index)
    return {"": single.name} if is_file(single) or is_special(single) else None


def _indexed(index: Path) -> dict[str, str]:
    """Return the file of each tensor that an index names. Raises `ModelError`, also where a file is missing."""
    folder = index.parent
    files = read_json(index, LARGEST_INDEX, 2 * MOST_TENSORS).get("weight_map")
    if not isinstance(files, Mapping) or not files:
        raise ModelError(Diagnostic("DP105", f"`{index}` has no `weight_map`"))
    if len(files) > MOST_TENSORS:
        raise too_many(index)
    strange = next((file for file in files.values() if not isinstance(file, str)), None)
    shards = set[str]() if strange is not None else set(files.values())
    if len(shards) > MOST_SHARDS:
        raise ModelError(Diagnostic("DP104", f"`{index}` names {len(shards)} files, and the limit is {MOST_SHARDS}"))
    for file in [strange] if strange is not None else sorted(shards):
        # A file of this folder, and nothing that a path could reach from it.
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            message = f"`{index}` names `{shown(file)}`, which is no file of this folder"
            raise ModelError(Diagnostic("DP104", message))
    missing = [shard for shard in sorted(shards) if not (is_file(folder / shard) or is_special(folder / shard))]
    if missing:
        listed = ", ".join(f"`{folder / shard}`" for shard in missing[:4])
        count = f"{len(missing)} of {len(shards)} shards are missing: {listed}"
        raise ModelError(Diagnostic("DP109", count, help="finish the download"))
    return dict(files)


def _without_headers(folder: Path, config: dict[str, Any], architecture: str | None) -> ModelTree:
    """Read a folder of pickled weights, which are not opened: unpickling runs code."""
    # What is not opened has no dtype to go by: `dtype` is handed over, so it is what is loaded.
    dtype = loaded_dtype(named_dtype(config), ())
    if architecture is not None:
        config = {**config, "architectures": [architecture]}
    tree = tree_of_config(config, dtype) if structure.has_transformers() else family_tree(config, dtype)
    if tree is None:
        message = f"`{folder}` holds pickled weights, and nothing here knows the structure of its model"
        raise ModelError(Diagnostic("DP407", message, help=INSTALL))
    unpickled = (replace(module, in_place=not module.tensors) for module in tree.modules)
    # A pickle has each name of what is tied.
    modules = _with_copies(unpickled, {group[0]: len(group) - 1 for group in tree.ties})
    tree = replace(tree, modules=modules, quantization=quantization_of(config, said_beside(folder)))
    if architectures_of(config):
        return tree
    reason = "its `config.json` names no class, and pickled weights are not opened: name it as `architecture`"
    return replace(tree, incomplete_reason=reason)


def _overlay(found: Structure, headers: Mapping[str, Stored]) -> ModelTree:
    """Return the tree with the ties that loading makes, and `in_place` where loading reads what is stored."""
    tree = found.tree
    plain: dict[str, Stored] = {}  # what is read as it is stored
    for source in found.sources:
        for target in source.targets:
            if not source.converted:
                plain[target] = headers[source.key]
    ties, compared = _stored_ties(tree.ties, plain)
    twice = {group[0]: copies for group in ties if (copies := _copies(group, plain))}
    for group in ties:
        first = next((name for name in group if name in plain), None)
        if first is not None:
            for name in group:
                plain.setdefault(name, plain[first])

    def is_plain(path: str, tensor: Tensor) -> bool:
        stored = plain.get(join(path, tensor.name))
        return not tensor.persistent or (stored is not None and stored.shape == tensor.shape)

    def as_stored(module: Module) -> Module:
        tensors = module.tensors
        plain_ones = [is_plain(module.path, tensor) for tensor in tensors]
        if not module.in_place and any(tensor.merged or tensor.kept for tensor in tensors):
            pairs = zip(tensors, plain_ones, strict=True)
            tensors = tuple(replace(tensor, merged=0, kept=0) if as_is else tensor for tensor, as_is in pairs)
        return replace(module, in_place=all(plain_ones), tensors=tensors)

    modules = _with_copies(map(as_stored, tree.modules), twice)
    return replace(tree, ties=ties, modules=modules, loading=replace(tree.loading, compared=compared))


def _with_copies(modules: Iterable[Module], copies: Mapping[str, int]) -> tuple[Module, ...]:
    """Return the modules with how many copies of each of some tensors are beside it while they are loaded."""

    def made(module: Module) -> Module:
        tensors = (replace(one, merged=copies.get(join(module.path, one.name), one.merged)) for one in module.tensors)
        return replace(module, tensors=tuple(tensors))

    holders = {name.rpartition(".")[0] for name in copies}
    return tuple(made(module) if module.path in holders else module for module in modules)


_Groups = tuple[tuple[str, ...], ...]


def _stored_ties(ties: _Groups, plain: Mapping[str, Stored]) -> tuple[_Groups, _Groups]:
    """Return the ties that loading will make, and what it compares and leaves untied: what is stored, and differs."""
    kept = list[tuple[str, ...]]()
    compared = list[tuple[str, ...]]()
    for group in ties:
        leader = next((name for name in group if name in plain), None)
        if leader is not None:
            apart = [name for name in group if name in plain and not same_bytes(plain[leader], plain[name])]
            compared += [(leader, *apart)] if apart else []
            group = tuple(name for name in group if name not in apart)
        kept.append(group)
    return tuple(group for group in kept if len(group) > 1), tuple(compared)


def _copies(group: tuple[str, ...], plain: Mapping[str, Stored]) -> int:
    """Return how many tensors loading makes of a tied group beside the one that stays.

    Each that is stored is read, and room is made for the first, to which the others are tied.
    """
    return len({group[0], *(name for name in group if name in plain)}) - 1


def tree_of_names(headers: Mapping[str, Stored], config: Mapping[str, Any], reason: str) -> ModelTree:
    """Return a partial tree whose modules are the prefixes of the stored names."""
    tensors: dict[str, list[Tensor]] = {"": []}
    children: dict[str, list[str]] = {"": []}
    for full, stored in headers.items():
        parts = full.split(".")
        if not all(parts) or len(parts) > DEEPEST_PATH:
            raise ModelError(
                Diagnostic("DP104", f"the checkpoint names a tensor `{full[:80]}`, which no module can hold")
            )
        if len(tensors) > LARGEST_TREE:
            raise ModelError(Diagnostic("DP104", f"the checkpoint names more than {LARGEST_TREE} modules, the limit"))
        parent = ""
        for part in parts[:-1]:
            path = join(parent, part)
            if path not in tensors:
                tensors[path], children[path] = [], []
                children[parent].append(path)
            parent = path
        tensors[parent].append(Tensor(parts[-1], stored.shape, stored.dtype))
    modules: list[Module] = []
    waiting = [""]
    while waiting:
        path = waiting.pop()
        modules.append(Module(path, UNKNOWN_CLASS, tuple(tensors[path])))
        waiting += sorted(children[path], key=_by_number)[::-1]
    return ModelTree(name="", modules=tuple(modules), incomplete_reason=reason, **derive(config, modules, shapes=False))


def _by_number(path: str) -> int:
    """Order numbered siblings by number and leave the others as they are stored, behind them."""
    name = path.rpartition(".")[2]
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 else 1 << 40
