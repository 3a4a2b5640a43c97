"""The headers of safetensors files: names, dtypes and shapes, without a byte of weights.

Owns the format's rules, read with the suspicion that a file from elsewhere deserves. Nothing that a header claims is
believed before it is compared with the size of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import is_file, open_file, read_json, shown
from devpolicy._core.model.limits import LARGEST_CONFIG, LARGEST_HEADER, LONGEST_NAME, MOST_ELEMENTS, MOST_TENSORS
from devpolicy._core.model.tree import DTYPE_BITS

DTYPES: dict[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn", "F4": "float4_e2m1fn",
}  # fmt: skip
"""Torch's name of each dtype by the format's."""

_MOST_DIMENSIONS = 64

FULL_SIZES = "full-sizes.json"
"""A file beside safetensors files that end behind their headers: the sizes of the whole files, by name."""


class Stored(NamedTuple):
    """A tensor in a file: torch's name of its dtype, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in the order of their bytes.

    Raises `ModelError` that names the file where it cannot be read (DP109) or breaks the format (DP104).
    """
    with open_file(path) as file:
        size = full_size(path, os.fstat(file.fileno()).st_size)
        length = int.from_bytes(file.read(8) or b"", "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(path, f"its header claims {length} bytes, and the file has {size}")
        text = file.read(length) or b""
    if len(text) < length:
        raise _damaged(path, "it is cut short")
    _check_counts(path, text)
    try:
        pairs = json.loads(text.decode("utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as broken:
        raise _damaged(path, f"its header is no JSON: {broken}") from None
    if not isinstance(pairs, _Pairs):
        raise _damaged(path, "its header is no object")
    return _tensors(path, pairs, 8 + length, size)


def full_size(path: Path, size: int) -> int:
    """Return the size of a file, of one of which only the header is kept that of the whole file."""
    kept = path.with_name(FULL_SIZES)
    full = read_json(kept, LARGEST_CONFIG).get(path.name) if is_file(kept) else None
    return full if isinstance(full, int) and size <= full <= MOST_ELEMENTS else size


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys, which a dict would hide."""

    __slots__ = ()


def _check_counts(path: Path, text: bytes) -> None:
    """Refuse a header that would become more objects than any checkpoint's, before it does: they take its size tenfold.

    A tensor is one object with two lists, and metadata is text, in which a bracket or a comma is rare.
    """
    objects = text.count(b"{")
    if objects > MOST_TENSORS + 2:
        raise too_many(path)
    if text.count(b"[") > 2 * MOST_TENSORS + 2 or text.count(b",") > 16 * objects + MOST_TENSORS:
        raise _damaged(path, "its header holds more than tensors")


def too_many(path: Path) -> ModelError:
    """Return the error of a file that names more tensors than are read."""
    return ModelError(Diagnostic("DP104", f"`{shown(path)}` names more than {MOST_TENSORS} tensors, the limit"))


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(
        Diagnostic("DP104", f"`{shown(path)}` is no safetensors file: {reason}", help="download it again")
    )


def _tensors(path: Path, pairs: _Pairs, start: int, size: int) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    seen: set[str] = set()
    for name, entry in pairs:
        if len(name) > LONGEST_NAME:
            raise _damaged(path, f"a name in it has {len(name)} characters, and the limit is {LONGEST_NAME}")
        if name in seen:
            raise _damaged(path, f"it holds `{name}` twice")
        seen.add(name)
        if name != "__metadata__":
            tensors[name] = _tensor(path, name, entry, start)
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = start
    for name, stored in ordered.items():
        if stored.begin != at:
            raise _damaged(path, f"the bytes of `{name}` begin at {stored.begin}, and {at} is next")
        at = stored.end
    if at != size:
        raise _damaged(path, f"its tensors end at {at}, and the file has {size} bytes")
    return ordered


def _tensor(path: Path, name: str, entry: object, start: int) -> Stored:
    fields: dict[str, Any] = dict(entry) if isinstance(entry, _Pairs) else {}
    dtype = DTYPES.get(str(fields.get("dtype")))
    shape, offsets = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if dtype is None:
        raise _damaged(path, f"`{name}` has an unknown dtype")
    if shape is None or len(shape) > _MOST_DIMENSIONS:
        raise _damaged(path, f"`{name}` has no shape")
    if offsets is None or len(offsets) != 2:
        raise _damaged(path, f"`{name}` has no offsets")
    begin, end = offsets
    bits = prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        raise _damaged(path, f"`{name}` takes {bits // 8} bytes by its shape, and {end - begin} by its offsets")
    return Stored(dtype, tuple(shape), path, start + begin, start + end)


def _sizes(value: object) -> list[int] | None:
    if not isinstance(value, list) or isinstance(value, _Pairs):
        return None
    good = all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MOST_ELEMENTS for size in value)
    return value if good else None


def read_headers(folder: Path, files: Iterable[str]) -> dict[str, Stored]:
    """Return the tensors of several files of one folder. Raises `ModelError`, also where two files hold one name."""
    tensors: dict[str, Stored] = {}
    for file in files:
        path = folder / file
        for name, stored in read_header(path).items():
            if name in tensors:
                raise _damaged(path, f"another shard holds `{name}` too")
            tensors[name] = stored
        if len(tensors) > MOST_TENSORS:
            raise too_many(path)
    return tensors


_SAMPLE = 1 << 12


def same_bytes(one: Stored, other: Stored) -> bool:
    """Whether two tensors are alike, by samples from their begin, middle and end.

    Loading compares them in full; weights that were trained apart differ in any few kilobytes.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    length = one.end - one.begin
    offsets = {0, max(0, length // 2 - _SAMPLE), max(0, length - _SAMPLE)}
    with open_file(one.file) as left, open_file(other.file) as right:
        for offset in offsets:
            left.seek(one.begin + offset)
            right.seek(other.begin + offset)
            size = min(_SAMPLE, length - offset)
            if left.read(size) != right.read(size):
                return False
    return True
