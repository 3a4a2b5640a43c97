"""From ONNX files to a `ModelTree`: one unit, since a session runs all of a model on the device that it is given.

Owns which file of a folder is meant, and what counts as bytes: the weights, inside and beside the file, and the graph.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import entries, is_file, is_folder, shown
from devpolicy._core.model.limits import MOST_SHARDS
from devpolicy._core.model.onnx_header import read_onnx
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree, Module, Tensor

SUFFIX = ".onnx"
_NAME, _FOLDER = "model.onnx", "onnx"
"""What Optimum and sentence-transformers load where nobody names another file, and the folder that they keep it in."""


def from_onnx(path: Path) -> ModelTree:
    """Read an ONNX file, with the weights beside it. Raises `ModelError`, DP104 and DP109, that names the file."""
    found = read_onnx(path)
    if len(found.external) > MOST_SHARDS:
        message = f"`{shown(path)}` names {len(found.external)} files, and the limit is {MOST_SHARDS}"
        raise ModelError(Diagnostic("DP104", message))
    for file, end in found.external.items():
        _check(path, file, end)
    graph = max(0, path.stat().st_size - found.inside)
    tensors = [Tensor(dtype, (size * 8 // DTYPE_BITS[dtype],), dtype) for dtype, size in sorted(found.bytes.items())]
    module = Module("", "OnnxModel", (*tensors, Tensor("graph", (graph,), "uint8", buffer=True)))
    return ModelTree(_name(path), (module,), format="onnx", source=str(path))


def onnx_in(folder: Path) -> Path | None:
    """Return the ONNX model of a folder, `None` where it holds none. Raises `ModelError` where it may be several."""
    below = folder / _FOLDER
    places: list[Path] = [folder, below] if is_folder(below) else [folder]
    for place in places:
        if is_file(place / _NAME):
            return place / _NAME
        files = sorted(entry for entry in entries(place) if entry.suffix == SUFFIX)
        if len(files) > 1:
            listed = ", ".join(f"`{shown(file.name)}`" for file in files[:8])
            message = f"`{shown(place)}` holds {len(files)} ONNX models: {listed}"
            raise ModelError(Diagnostic("DP109", message, help=f"name one: `{shown(files[0])}`"))
        if files:
            return files[0]
    return None


def _check(path: Path, file: str, end: int) -> None:
    """Raise `ModelError` where external data is not in a file of the model's folder, or not all there."""
    named = PurePosixPath(file)
    if not file or named.is_absolute() or ".." in named.parts or "\\" in file or "\0" in file:
        message = f"`{shown(path)}` names `{shown(file)}`, which is no file of its folder"
        raise ModelError(Diagnostic("DP104", message))
    beside = path.parent / named
    if not is_file(beside):
        message = f"`{shown(beside)}` is missing, which holds weights of `{shown(path.name)}`"
        raise ModelError(Diagnostic("DP109", message, help="finish the download"))
    size = beside.stat().st_size
    if size < end:
        message = f"`{shown(beside)}` has {size} bytes, and weights in it end at {end}"
        raise ModelError(Diagnostic("DP104", message, help="finish the download"))


def _name(path: Path) -> str:
    if path.name != _NAME:
        return path.name.removesuffix(SUFFIX)
    folder = path.resolve().parent
    return (folder.parent if folder.name == _FOLDER else folder).name or "model"
