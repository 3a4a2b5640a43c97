"""A checkpoint folder with the headers of its weights and none of their bytes.

Owns the files. A file has the length that its header states, and the system keeps no block of what was never written: a
folder of 140 GB takes a few kilobytes, is read back as zeros, and is loaded by the library like any other.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devpolicy._core.model.headers import DTYPES

_SHARD = 4 << 30
"""Bytes of a file at most, as libraries save them: one mapping of all would be more than some systems allow."""
_MEMORY = Path("/dev/shm")
_WORDS = {name: word for word, name in DTYPES.items()}


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for files without content, in memory where the system has such a place: disks read holes slowly."""
    with tempfile.TemporaryDirectory(prefix=_prefix(os.getpid()), dir=_parent()) as folder:
        yield Path(folder)


def remove_scratch(pid: int) -> None:
    """Take away the folders of a process that was killed, and could not do it."""
    for folder in Path(_parent()).glob(_prefix(pid) + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(pid: int) -> str:
    return f"devpolicy-dry-run-{pid}-"


def _parent() -> str:
    return str(_MEMORY) if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else tempfile.gettempdir()


def write_tensors(tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: object = None) -> None:
    """Write a safetensors file of these tensors without their data; it takes the place of `save_file`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        word = _WORDS[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_checkpoint(folder: Path, model: Any, built: str, stored: str) -> None:
    """Write what `save_pretrained` would of a model on the meta device, but for the weights' bytes.

    What the model was `built` in is `stored` in another dtype: that of its configuration.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    tied = getattr(model, "all_tied_weights_keys", None) or {}
    wanted, dtype = getattr(torch, built), getattr(torch, stored)
    state = {
        name: tensor.to("meta", dtype if tensor.dtype == wanted else None)
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    with torch.device("meta"):
        state = revert_weight_conversion(model, state)
    files: dict[str, str] = {}
    for number, shard in enumerate(_shards(state.items()), start=1):
        name = f"model-{number:05}.safetensors"
        write_tensors(shard, folder / name)
        files |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(state: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    shard: dict[str, Any] = {}
    size = 0
    for name, tensor in state:
        own = tensor.numel() * tensor.element_size()
        if shard and size + own > _SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += own
    yield shard


def link_checkpoint(folder: Path, real: Path) -> bool:
    """Link the safetensors files of a real checkpoint, whose weights are then not read; whether it has such files."""
    found = real.iterdir() if real.is_dir() else ()
    names = [entry.name for entry in found if entry.name.endswith((".safetensors", ".safetensors.index.json"))]
    for name in names:
        (folder / name).symlink_to((real / name).resolve())
    return bool(names)
