"""LoRA adapters: which modules of a model they belong to, and what they take.

Owns the reading of an adapter's folder, its configuration and the header of its weights. An adapter's tensors stay on
the device where their module runs, as buffers do, also where the module's own weights are kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import is_file, is_folder, is_special, read_json, shown
from devpolicy._core.model.headers import Stored, read_header
from devpolicy._core.model.limits import LARGEST_CONFIG
from devpolicy._core.model.tree import ModelTree, Module, Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_OF_LORA = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_BESIDE = frozenset(f"adapter {part}" for part in _OF_LORA if part != "lora_magnitude_vector")
"""Tensors that are computed with beside the module; DoRA's magnitudes scale the module's own weights."""
_FLOAT32 = ("float16", "bfloat16")
"""Dtypes of an adapter's weights that PEFT casts to float32 when it loads them."""


def with_adapters(tree: ModelTree, folders: Iterable[str]) -> ModelTree:
    """Return a model with the tensors of adapters, each in the module that it changes. Raises `ModelError`."""
    added: dict[str, list[Tensor]] = {}
    replaced: dict[str, None] = {}
    folders = tuple(folders)
    for number, folder in enumerate(folders):
        for path, tensor in _tensors_of(Path(folder), tree):
            if tensor is not None:
                added.setdefault(path, []).append(replace(tensor, name=f"{tensor.name}:{number}"))
            if tensor is None or tensor.name not in _BESIDE:
                replaced[path] = None
    modules = tuple(
        replace(module, tensors=(*module.tensors, *added[module.path])) if module.path in added else module
        for module in tree.modules
    )
    loading = replace(tree.loading, adapters=folders, replaced=tuple(replaced))
    return replace(tree, modules=modules, loading=loading)


def names_of(folders: Iterable[str]) -> list[str]:
    """Return the names that adapters are loaded under: the first is PEFT's default, others go by their folder."""
    names: list[str] = []
    for folder in folders:
        own = Path(folder).name.replace(".", "_") if names else "default"
        names.append(own if own not in names else f"{own}_{len(names)}")
    return names


def _tensors_of(folder: Path, tree: ModelTree) -> Iterable[tuple[str, Tensor | None]]:
    """Yield each tensor of an adapter with the path of its module, `None` for one in place of the module's own."""
    config = _config(folder, tree)
    saved = config.get("modules_to_save")
    whole = {str(name) for name in saved} if isinstance(saved, list) else set()
    by_path = {module.path: module for module in tree.modules}
    by_end: dict[str, Module | None] = {}
    for key, stored in _header(folder).items():
        path, part = _split(key.removeprefix(_PREFIX))
        module = by_path.get(path) or _renamed(path, by_end or _ends(tree, by_end))
        if module is None:
            message = f"the adapter `{shown(folder)}` changes `{path}`, which `{tree.name}` does not have"
            raise ModelError(Diagnostic("DP104", message, help=_of_base(config)))
        if part in _OF_LORA:
            _check_shape(folder, config, module, part, stored)
            yield module.path, _tensor(part, stored, cast=True)
        elif not whole.isdisjoint(_tails(module.path)):
            yield module.path, _tensor(part, stored, cast=False)
        elif part in {tensor.name for tensor in module.tensors}:
            yield module.path, None
        else:
            message = f"the adapter `{shown(folder)}` has `{shown(key)}`, which is no part of LoRA"
            raise ModelError(Diagnostic("DP104", message, help="merge it into its base model, and plan that"))


def _split(key: str) -> tuple[str, str]:
    """Return the path of the module that a key belongs to, and what of the adapter it is."""
    parts = key.split(".")
    for at, part in enumerate(parts):
        if part in _OF_LORA:
            return ".".join(parts[:at]), part
    return ".".join(part for part in parts[:-1] if part != "base_layer"), parts[-1]


def _renamed(path: str, by_end: Mapping[str, Module | None]) -> Module | None:
    """Return the one module whose path ends as one that was called otherwise when the adapter was made."""
    ends = [end for end in islice(_tails(path), 1, None) if "." in end]
    return next((by_end[end] for end in ends if end in by_end), None)


def _ends(tree: ModelTree, by_end: dict[str, Module | None]) -> dict[str, Module | None]:
    """Fill and return a table of the modules by every end of their paths, `None` for an end of several."""
    for module in tree.modules:
        for end in _tails(module.path):
            by_end[end] = None if end in by_end else module
    return by_end


def _tails(path: str) -> Iterator[str]:
    """Yield a path, and what is left of it without its first parts."""
    yield path
    while "." in path:
        path = path.partition(".")[2]
        yield path


def _check_shape(folder: Path, config: Mapping[str, Any], module: Module, part: str, stored: Stored) -> None:
    """Refuse an adapter of another model: its input or its output is not the module's."""
    weight = next((tensor for tensor in module.tensors if tensor.name == "weight" and len(tensor.shape) == 2), None)
    at = {"lora_A": -1, "lora_B": 0}.get(part)
    if weight is None or at is None or len(stored.shape) != 2:
        return
    # GPT-2's `Conv1D` has its weight the other way round.
    if stored.shape[at] not in (weight.shape if module.class_name == "Conv1D" else (weight.shape[at],)):
        message = (
            f"the adapter `{shown(folder)}` does not fit `{module.path}`: "
            f"its `{part}` is {list(stored.shape)}, the weight {list(weight.shape)}"
        )
        raise ModelError(Diagnostic("DP104", message, help=_of_base(config)))


def _tensor(part: str, stored: Stored, *, cast: bool) -> Tensor:
    dtype = "float32" if cast and stored.dtype in _FLOAT32 else stored.dtype
    return Tensor(f"adapter {part}", stored.shape, dtype, buffer=True, persistent=False)


def _config(folder: Path, tree: ModelTree) -> dict[str, Any]:
    """Return the configuration of an adapter that can be planned for. Raises `ModelError`."""
    path = folder / CONFIG
    if is_special(path) or not is_file(path):
        what = f"it has no `{CONFIG}`" if is_folder(folder) else "there is no such folder"
        hint = "name the folder that `save_pretrained` of PEFT wrote"
        raise ModelError(Diagnostic("DP109", f"`{shown(folder)}` is no adapter: {what}", help=hint))
    if tree.format != "safetensors" or tree.incomplete_reason is not None:
        message = f"`{tree.name}` takes no adapter: {tree.incomplete_reason or 'its weights are in a GGUF file'}"
        raise ModelError(Diagnostic("DP407", message, help="plan the checkpoint that the adapter was made for"))
    config = read_json(path, LARGEST_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        message = f"`{shown(folder)}` is an adapter of type `{shown(kind)}`, and only LoRA is planned for"
        raise ModelError(Diagnostic("DP104", message, help="merge it into its base model, and plan that"))
    if config.get("target_parameters"):
        message = f"`{shown(folder)}` changes parameters of fused experts, which are made in full while they run"
        raise ModelError(Diagnostic("DP104", message, help="merge it into its base model, and plan that"))
    return config


def _header(folder: Path) -> dict[str, Stored]:
    path = folder / WEIGHTS
    if is_special(path) or not is_file(path):
        message = f"`{shown(folder)}` holds no `{WEIGHTS}`"
        raise ModelError(Diagnostic("DP109", message, help="save it with `safe_serialization`: pickles are not opened"))
    return read_header(path)


def _of_base(config: Mapping[str, Any]) -> str:
    base = config.get("base_model_name_or_path")
    return f"it was made for `{shown(base)}`" if isinstance(base, str) and base else "it was made for another model"
