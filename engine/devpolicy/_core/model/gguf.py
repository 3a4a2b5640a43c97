"""From GGUF files to a `ModelTree`.

Owns how a file's flat names become modules. A block's tensors are grouped as PyTorch's modules are, so that one rule
serves both worlds: `blk.0.attn` holds `attn_q`, `blk.0.ffn` holds `ffn_gate`, and the experts are `blk.0.ffn.exps`.
The group is the only part of a path that the file does not name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import entries, is_file, open_file, shown
from devpolicy._core.model.gguf_geometry import Metadata, geometry
from devpolicy._core.model.gguf_header import GGUFHeader, GGUFTensor, read_gguf_header
from devpolicy._core.model.limits import DEEPEST_PATH, LARGEST_TREE, MOST_SHARDS, MOST_TENSORS
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import ModelTree, Module, Tensor
from devpolicy._core.sizes import format_size

_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_CHUNK = 1 << 18

_EMBEDDINGS = ("token_embd", "position_embd", "token_types")
_FIRST = (*_EMBEDDINGS, "token_embd_norm", "per_layer_token_embd", "rope_freqs")
_LAST = ("output_norm", "output", "cls")
_IN_BLOCK = (
    "attn_norm",
    "attn_norm_2",
    "attn",
    "ssm",
    "time",
    "shortconv",
    "post_attention_norm",
    "ffn_norm",
    "ffn",
    "post_ffw_norm",
)
_GROUPS = {"attn": "Attention", "ffn": "MLP", "exps": "Experts", "shexp": "MLP", "ssm": "StateSpace"}
_GROUPS |= {"time": "TimeMix", "shortconv": "ShortConvolution"}
_KEPT_APART = re.compile(r"(.*_)?norm(_\d+)?")


def from_gguf(path: Path) -> ModelTree:
    """Read a GGUF file, with the others where it is split. Raises `ModelError`, DP104 and DP109, that names the file.

    Bytes are those of the file. Where it holds no head, the head is the embedding, as llama.cpp has it.
    """
    headers = [_read(part) for part in _parts(path)]
    tree = replace(tree_of(headers, name_of(path.name), str(path)), source=str(path))
    beside = (entry for entry in entries(path.parent) if is_projector(entry.name) and is_file(entry))
    return with_projectors(tree, path.name, {entry.name: entry.stat().st_size for entry in beside})


def is_projector(name: str) -> bool:
    """Whether a file's name is that of a projector: loaded beside a model, it reads images or sounds for it."""
    return name.endswith(".gguf") and "mmproj" in name.lower()


def with_projectors(tree: ModelTree, file: str, sizes: Mapping[str, int]) -> ModelTree:
    """Return a model with a note on each projector among the files beside it, whose sizes in bytes are given by name.

    `file` is the name of the model's own file: a projector has no others.
    """
    beside = () if is_projector(file) else sorted(filter(is_projector, sizes))
    notes = tuple(_not_counted(name, sizes[name]) for name in beside)
    return replace(tree, loading=replace(tree.loading, notes=(*tree.loading.notes, *notes))) if notes else tree


def _not_counted(name: str, size: int) -> str:
    return (
        f"`{shown(name)}` ({format_size(size)}) is beside the model, and is not counted: with `--mmproj`, llama.cpp "
        'loads it on the first device. Keep room for it and what it computes, as `memory."cuda:0".headroom`'
    )


def gguf_in(folder: Path) -> Path | None:
    """Return the GGUF model of a folder, `None` where it holds none. Raises `ModelError` where it holds several."""
    files = sorted(entry for entry in entries(folder) if entry.suffix == ".gguf")
    files = [file for file in files if not is_projector(file.name)] or files
    first = [file for file in files if (split := _SPLIT.fullmatch(file.name)) is None or int(split[2]) == 1]
    if len(first) > 1:
        listed = ", ".join(f"`{shown(file.name)}`" for file in first[:8])
        help_ = f"name one: `{shown(first[0])}`"
        raise ModelError(Diagnostic("DP109", f"`{shown(folder)}` holds {len(first)} models: {listed}", help=help_))
    return next(iter(first or files), None)


def name_of(file: str) -> str:
    """Return what a model is called by its file's name."""
    split = _SPLIT.fullmatch(file)
    return split[1] if split else file.removesuffix(".gguf")


def parts_of(file: str) -> list[str]:
    """Return the names of all files of a model, by the name of one. Raises `ModelError` for counts beyond reason."""
    split = _SPLIT.fullmatch(file)
    if split is None:
        return [file]
    stem, number, count = split[1], int(split[2]), int(split[3])
    if not 0 < number <= count <= MOST_SHARDS:
        raise ModelError(Diagnostic("DP104", f"`{shown(file)}` says that it is part {number} of {count}"))
    return [f"{stem}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]


def _parts(path: Path) -> list[Path]:
    files = [path.with_name(name) for name in parts_of(path.name)]
    missing = [file for file in files if file != path and not is_file(file)]
    if missing:
        listed = ", ".join(f"`{shown(file)}`" for file in missing[:4])
        raise ModelError(
            Diagnostic("DP109", f"{len(missing)} of {len(files)} parts are missing: {listed}", help="download them too")
        )
    return files


@dataclass
class _File:
    """An open file as the bytes of a header, read in chunks: a header is made of very many short values."""

    name: str
    size: int
    file: BinaryIO
    begin: int = 0
    chunk: bytes = b""

    def read(self, offset: int, length: int) -> bytes:
        if not self.begin <= offset <= offset + length <= self.begin + len(self.chunk):
            self.file.seek(offset)
            self.begin, self.chunk = offset, self.file.read(max(length, _CHUNK)) or b""
        return self.chunk[offset - self.begin : offset - self.begin + length]


def _read(path: Path) -> GGUFHeader:
    with open_file(path) as file:
        return read_gguf_header(_File(str(path), os.fstat(file.fileno()).st_size, file))


def tree_of(headers: Sequence[GGUFHeader], name: str, source: str) -> ModelTree:
    """Return the tree of a model from the headers of its files, the first file's first. Errors name `source`."""
    metadata = Metadata(headers[0].metadata, headers[0].lengths)
    promised = metadata.number("split.tensors.count")
    tensors: dict[str, GGUFTensor] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise _malformed(source, f"two of its files hold `{shown(tensor.name)}`")
            tensors[tensor.name] = tensor
    if promised is not None and len(headers) > 1 and promised != len(tensors):
        raise _malformed(source, f"its files hold {len(tensors)} tensors, and {promised} are promised")
    if not tensors or len(tensors) > MOST_TENSORS:
        raise _malformed(source, "it holds no tensors" if not tensors else f"it holds more than {MOST_TENSORS} tensors")
    ties: tuple[tuple[str, ...], ...] = ()
    if metadata.writes_text and "token_embd.weight" in tensors and "output.weight" not in tensors:
        tensors["output.weight"] = tensors["token_embd.weight"]._replace(name="output.weight")
        ties = (("token_embd.weight", "output.weight"),)
    modules = tuple(_modules(tensors, source))
    return ModelTree(
        name=name,
        modules=modules,
        ties=ties,
        no_split=frozenset({"Block"}),
        format="gguf",
        **geometry(metadata, tensors, [(module.path, module.class_name) for module in modules]),
    )


def _malformed(source: str, reason: str) -> ModelError:
    return ModelError(Diagnostic("DP104", f"`{shown(source)}` is no GGUF model: {reason}", help="download it again"))


@dataclass
class _Node:
    """A module while the tree is made: its own tensors, and its children by the last part of their paths."""

    tensors: list[Tensor] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)

    def child(self, name: str) -> _Node:
        return self.children.setdefault(name, _Node())


def _modules(tensors: Mapping[str, GGUFTensor], source: str) -> Iterator[Module]:
    root = _Node()
    for tensor in tensors.values():
        parts = tensor.name.split(".")
        if not all(parts) or len(parts) > DEEPEST_PATH:
            raise _malformed(source, f"it names a tensor `{shown(tensor.name)}`, which no module can hold")
        node = root
        for part in _path(parts):
            node = node.child(part)
        node.tensors.append(Tensor(parts[-1], tensor.shape, tensor.dtype))
    for count, module in enumerate(_walk(root, "", "")):
        if count >= LARGEST_TREE:
            raise _malformed(source, f"it names more than {LARGEST_TREE} modules, the limit")
        yield module


def _path(parts: list[str]) -> list[str]:
    """Return the path of the module that holds a tensor: its name without the last part, and its group in a block."""
    above, place = parts[:-1], next((at for at, part in enumerate(parts) if part == "blk"), None)
    if place is None or len(above) != place + 3:
        return above
    leaf = above[-1]
    if _KEPT_APART.fullmatch(leaf) and not leaf.startswith(("attn_q", "attn_k", "ssm_", "attn_sub", "ffn_sub")):
        return above  # the norms before and after a part belong to the block
    if leaf.endswith(("_exps", "_exp", "_shexp")):
        return [*above[:-1], "ffn", "shexp" if leaf.endswith("_shexp") else "exps", leaf]
    group = leaf.partition("_")[0]
    return [*above[:-1], group, leaf] if group in _GROUPS else above


def _walk(node: _Node, path: str, name: str) -> Iterator[Module]:
    parent = path.rpartition(".")[0].rpartition(".")[2] or path.rpartition(".")[0]
    yield Module(path, _class(node, name, parent), tuple(node.tensors))
    for child in sorted(node.children, key=_order(node)):
        yield from _walk(node.children[child], join(path, child), child)


def _class(node: _Node, name: str, parent: str) -> str:
    if not name:
        return "Model"
    if parent == "blk" and name.isdigit():
        return "Block"
    if node.children:
        return _GROUPS.get(name, "ModuleList" if all(child.isdigit() for child in node.children) else "Module")
    if name in _EMBEDDINGS or name == "per_layer_token_embd":
        return "Embedding"
    if name == "output":
        return "Head"
    if name.endswith("norm") or _KEPT_APART.fullmatch(name):
        return "Norm"
    return "Linear" if any(len(tensor.shape) == 2 for tensor in node.tensors) else "Parameters"


def _order(node: _Node) -> Callable[[str], tuple[int, int, int]]:
    """Return the key that sorts siblings as they run; those that nothing is known of stay as they are stored."""
    stored = {name: at for at, name in enumerate(node.children)}

    def key(name: str) -> tuple[int, int, int]:
        if name.isdigit() and name.isascii() and len(name) < 10:
            return 1, int(name), 0
        if name in _IN_BLOCK:
            return 1, _IN_BLOCK.index(name), 0
        if name in _FIRST:
            return 0, _FIRST.index(name), 0
        return (3, _LAST.index(name), 0) if name in _LAST else (2 if name != "blk" else 1, 0, stored[name])

    return key
