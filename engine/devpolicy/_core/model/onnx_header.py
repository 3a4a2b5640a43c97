"""The weights that an ONNX file names: their types, sizes and files, without a byte of them.

Owns the wire format, read with the suspicion that a file from elsewhere deserves. An ONNX file is one protobuf message
and has no header: the walk seeks over what it does not need, and keeps a number for each type.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import open_file, shown
from devpolicy._core.model.limits import DEEPEST_JSON, LONGEST_NAME, MOST_ELEMENTS, MOST_FIELDS, MOST_TENSORS

_BITS = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8), 18: ("float8_e4m3fnuz", 8), 19: ("float8_e5m2", 8), 20: ("float8_e5m2fnuz", 8),
    21: ("uint8", 4), 22: ("uint8", 4), 23: ("uint8", 4), 24: ("float8_e8m0fnu", 8), 25: ("uint8", 2), 26: ("uint8", 2),
}  # fmt: skip
"""Torch's name of each `TensorProto.DataType` and the bits of an element; what is packed below a byte is bytes."""
_STRINGS = 8

# Numbers of fields, by message: where tensors and graphs are.
_MODEL = {7: "graph", 25: "function"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_INSIDE = {
    "graph": _GRAPH,
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1


@dataclass
class StoredWeights:
    """What an ONNX file holds."""

    bytes: dict[str, int] = field(default_factory=dict)
    """By torch's name of the dtype."""
    inside: int = 0
    """Bytes of them that are in the file itself."""
    tensors: int = 0
    external: dict[str, int] = field(default_factory=dict)
    """The files beside it that hold weights, and where the last one in each ends."""


class _Field(NamedTuple):
    number: int
    kind: int
    value: int
    """A number, or where bytes begin."""
    length: int


def read_onnx(path: Path) -> StoredWeights:
    """Return what an ONNX file and the files beside it hold. Raises `ModelError` (DP104, DP109) that names the file."""
    with open_file(path) as file:
        return _Walk(path, file, os.fstat(file.fileno()).st_size).weights()


class _Walk:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._fields = 0
        self._found = StoredWeights()

    def weights(self) -> StoredWeights:
        known = False
        for one in self._message(0, self._size):
            known = known or one.number in (1, 7)  # its version, or its graph
            self._enter(one, _MODEL, 0)
        if not known:
            raise self.damaged("it holds no graph")
        return self._found

    def damaged(self, why: str) -> ModelError:
        return ModelError(Diagnostic("DP104", f"`{shown(self._path)}` is no ONNX file, or a damaged one: {why}"))

    def _enter(self, one: _Field, inside: dict[int, str], depth: int) -> None:
        what = inside.get(one.number)
        if what is None:
            return
        if one.kind != _BYTES or depth > DEEPEST_JSON:
            raise self.damaged("a message is nested too deep" if one.kind == _BYTES else "a message is a number")
        if what == "tensor":
            self._tensor(one.value, one.value + one.length)
            return
        for inner in self._message(one.value, one.value + one.length):
            self._enter(inner, _INSIDE[what], depth + 1)

    def _message(self, begin: int, end: int) -> Iterator[_Field]:
        """Yield the fields of a message, in order."""
        at = begin
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise self.damaged(f"it has more than {MOST_FIELDS} fields, the limit")
            key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            if not number:
                raise self.damaged("a field has no number")
            value, length = at, 0
            if kind == _VARINT:
                value, at = self._varint(at, end)
            elif kind == _BYTES:
                length, at = self._varint(at, end)
                value, at = at, at + length
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise self.damaged(f"a field is of type {kind}")
            if at > end:
                raise self.damaged("it is cut short")
            yield _Field(number, kind, value, length)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        self._file.seek(at)
        value = 0
        for place, byte in enumerate(self._file.read(min(10, end - at)) or b""):
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value, at + place + 1
        raise self.damaged("a number is cut short")

    def _text(self, one: _Field) -> str:
        if one.length > LONGEST_NAME:
            raise self.damaged(f"a name has {one.length} bytes")
        self._file.seek(one.value)
        return (self._file.read(one.length) or b"").decode("utf-8", "replace")

    def _tensor(self, begin: int, end: int) -> None:
        """Count a `TensorProto`: dims 1, data_type 2, external_data 13, data_location 14."""
        shape: list[int] = []
        kind = location = 0
        external: dict[str, str] = {}
        for one in self._message(begin, end):
            if one.number == 1 and one.kind == _BYTES:  # packed
                at, last = one.value, one.value + one.length
                while at < last:
                    size, at = self._varint(at, last)
                    shape.append(size)
            elif one.number == 1:
                shape.append(one.value)
            elif one.number == 2:
                kind = one.value
            elif one.number == 13 and one.kind == _BYTES:
                pair = {inner.number: inner for inner in self._message(one.value, one.value + one.length)}
                if pair.keys() >= {1, 2}:
                    external[self._text(pair[1])] = self._text(pair[2])
            elif one.number == 14:
                location = one.value
            if len(shape) > 64:
                raise self.damaged("a tensor has more than 64 dimensions")
        self._count(shape, kind, end - begin, external if location == _EXTERNAL else None)

    def _count(self, shape: list[int], kind: int, written: int, external: dict[str, str] | None) -> None:
        found = self._found
        found.tensors += 1
        if found.tensors > MOST_TENSORS or prod(shape) > MOST_ELEMENTS:
            raise self.damaged("it has more tensors, or larger ones, than the limits")
        if kind == _STRINGS:
            return  # texts of a vocabulary, which are part of the file
        if kind not in _BITS:
            raise self.damaged(f"a tensor is of type {kind}, which is not known")
        dtype, bits = _BITS[kind]
        size = -(-prod(shape) * bits // 8)
        found.bytes[dtype] = found.bytes.get(dtype, 0) + size
        if external is None:
            found.inside += min(size, written)
            return
        file, offset, length = external.get("location", ""), external.get("offset", "0"), external.get("length")
        if not (offset.isdecimal() and (length or "0").isdecimal() and len(offset) < 20 and len(length or "") < 20):
            raise self.damaged("the place of external data is no number")
        stop = int(offset) + (int(length) if length is not None else size)
        found.external[file] = max(found.external.get(file, 0), stop)
