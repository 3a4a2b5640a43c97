"""The model of a GGUF file as Transformers loads it: its own class, with every weight unpacked.

Owns the way from a file's tree of blocks to that of the class. The configuration is what Transformers makes of the
file's metadata; a class is the file's where it has as many parameters as the file holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from devpolicy._core.errors import ModelError
from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.model.classes import architectures_of, classes_for
from devpolicy._core.model.config import from_config, has_transformers, quiet
from devpolicy._core.model.ggml import BLOCKS
from devpolicy._core.model.gguf import parts_of
from devpolicy._core.model.sealed import sealed
from devpolicy._core.model.tree import WHY_NOT, ModelTree, Module, Tensor
from devpolicy._core.model.watchdog import watched
from devpolicy._core.text import described

_MOST_CLASSES = 6
_UNPACKING = 6
"""Bytes for each element of a matrix that are there beside it while it is unpacked, at most, as they were measured."""
_TABLES = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""What files hold that the class computes."""


def dequantized(tree: ModelTree, architecture: str | None = None) -> ModelTree:
    """Return the model of a GGUF file as Transformers loads it, by default in float32.

    Where it does not load the file, the tree is as it was, with the reason under `WHY_NOT`. `architecture` names
    a class.
    """
    return tree.remembered(("dequantized", architecture), lambda: _dequantized(tree, architecture))


def _dequantized(tree: ModelTree, architecture: str | None) -> ModelTree:
    try:
        made = _of_class(tree, architecture)
    except ModelError as refused:
        found = refused.diagnostics
        return replace(tree, metadata=(*tree.metadata, (WHY_NOT, found[0].message if found else str(refused))))
    # Matrices in float32 are all there before the first is made smaller.
    at_once = sum(tensor.bytes_as(None) for tensor in _matrices(tree) if tensor.dtype == "float32")
    takes = (_UNPACKING, 256 + at_once) if _on_device(tree) else (0, 0)
    return replace(
        made,
        name=tree.name,
        modules=tuple(_unpacked(module, *takes) for module in made.modules),
        loading=replace(made.loading, gguf_file=Path(tree.source or "").name),
        quantization=Quantization("gguf", "gguf", stored=tree.bytes_as()),
        source=None,
    )


def _matrices(tree: ModelTree) -> Iterator[Tensor]:
    yield from (tensor for module in tree.modules for tensor in module.tensors if len(tensor.shape) > 1)


def _unpacked(module: Module, each: int, beside: int) -> Module:
    tensors = tuple(
        replace(tensor, transient=each * tensor.elements + beside) if each and len(tensor.shape) > 1 else tensor
        for tensor in module.tensors
    )
    return replace(module, in_place=not tensors, tensors=tensors)


def _on_device(tree: ModelTree) -> bool:
    """Return whether Transformers unpacks the blocks of an architecture where they go, and not in RAM before."""
    try:
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    except ImportError:  # before it did
        return False
    return dict(tree.metadata).get("model_type") in GGUF_CONFIG_ARCHS


def _of_class(tree: ModelTree, architecture: str | None) -> ModelTree:
    """Return the tree of the class whose parameters a file holds. Raises `ModelError` with the reason."""
    if tree.source is None:
        raise ModelError("only its header is here, and Transformers reads the file")
    path = Path(tree.source)
    if len(parts_of(path.name)) > 1:
        raise ModelError("Transformers reads no GGUF file that is split")
    if not has_transformers() or importlib.util.find_spec("gguf") is None:
        raise ModelError("it is read with Transformers and `gguf`, and they are not both here")
    config = _config(path)
    held = tree.parameters - sum(
        tensor.elements for module in tree.modules if module.path in _TABLES for tensor in module.tensors
    )
    found: ModelTree | None = None
    _check_types(tree)
    for name in [architecture] if architecture else islice(_classes(config), _MOST_CLASSES):
        found = from_config(config, name)
        if found.parameters == held:
            return found
    whose = "no class here has" if found is None else f"`{found.loading.architecture}` has not"
    raise ModelError(f"the file holds {held} parameters, and {whose} as many")


def _check_types(tree: ModelTree) -> None:
    """Raise `ModelError` for a type of blocks that nothing here unpacks: each is tried on one block of zeros."""
    import gguf
    import numpy

    on_device = _on_device(tree)
    for dtype in sorted({tensor.dtype for module in tree.modules for tensor in module.tensors} & set(BLOCKS)):
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        try:
            if on_device and kind not in _unpacked_on_devices():
                raise NotImplementedError
            gguf.quants.dequantize(numpy.zeros((1, BLOCKS[dtype][1]), dtype=numpy.uint8), kind)
        except (NotImplementedError, KeyError):
            raise ModelError(f"Transformers does not unpack `{dtype}`") from None


def _unpacked_on_devices() -> Collection[int]:
    from transformers.integrations.gguf.dequant import GGML_BLOCK

    types: Collection[int] = GGML_BLOCK
    return types


def _classes(config: Mapping[str, Any]) -> Iterator[str]:
    named = architectures_of(config)
    yield from named or classes_for(str(config.get("model_type")))


@watched()
def _config(path: Path) -> dict[str, Any]:
    """Return the configuration that Transformers makes of a file's metadata. Raises `ModelError`."""
    import transformers

    try:
        with sealed(), quiet(transformers):
            table: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(
                str(path.parent), gguf_file=path.name, local_files_only=True
            )[0]
    except ModelError:
        raise
    except Exception as broken:  # noqa: BLE001 - the reader raises anything
        raise ModelError(f"Transformers does not load it: {described(broken)}") from None
    return {key: value for key, value in table.items() if not key.startswith("_")}
