"""The headers of GGUF files: metadata, and the names, types and shapes of tensors, without a byte of weights.

Owns the format's rules, read with the suspicion that a file from elsewhere deserves. The `gguf` package maps the whole
file and makes an array of each of a vocabulary's strings; this reads forward, keeps what a plan needs, and takes its
bytes from a file or from a server alike. Nothing that a header claims is believed before it is compared with the size
of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from typing import NamedTuple, Protocol

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import shown
from devpolicy._core.model.ggml import BLOCKS, GGML_TYPES
from devpolicy._core.model.limits import (
    LARGEST_HEADER,
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_ELEMENTS,
    MOST_KEPT,
    MOST_METADATA,
    MOST_STRINGS,
    MOST_TENSORS,
)
from devpolicy._core.model.tree import DTYPE_BITS

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4

Value = int | float | bool | str | tuple[int | float | bool | str, ...] | None
"""A value of the metadata. Of a list that is longer than a plan ever asks, only its length is kept: `("", length)`."""


class Bytes(Protocol):
    """Where a header is read from: a file, or a server."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end."""
        ...


class GGUFTensor(NamedTuple):
    """A tensor in a file: the name of its dtype, and its shape in torch's order."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class GGUFHeader(NamedTuple):
    """The header of a file: metadata, lengths of its long lists, and tensors in the order of the header."""

    metadata: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[GGUFTensor, ...]


def read_gguf_header(source: Bytes) -> GGUFHeader:
    """Return the header of a GGUF file of version 2 or 3. Raises `ModelError` that names the file, DP104."""
    reader = _Reader(source)
    if reader.take(4) != MAGIC:
        raise reader.damaged("it does not begin with `GGUF`")
    version = reader.number("I")
    if version not in (2, 3) and int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3):
        reader.order = ">"
    elif version not in (2, 3):
        raise reader.damaged(f"it is of version {version}, and 2 and 3 are read", "convert the model again")
    count, entries = reader.number("Q"), reader.number("Q")
    if count > MOST_TENSORS or entries > MOST_METADATA:
        raise reader.damaged(
            f"it names {count} tensors and {entries} keys, and the limits are {MOST_TENSORS} and {MOST_METADATA}"
        )
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(entries):
        key = reader.text(LONGEST_NAME)
        if key in metadata or key in lengths:
            raise reader.damaged(f"it holds the key `{shown(key)}` twice")
        value, length = reader.value(reader.number("I"))
        if value is not None:
            metadata[key] = value
        if length is not None:
            lengths[key] = length
    return GGUFHeader(metadata, lengths, _tensors(reader, count, metadata))


def _tensors(reader: _Reader, count: int, metadata: Mapping[str, Value]) -> tuple[GGUFTensor, ...]:
    tensors: dict[str, GGUFTensor] = {}
    begins: list[tuple[int, int, str]] = []
    for _ in range(count):
        one = _tensor(reader)
        if one.name in tensors:
            raise reader.damaged(f"it holds `{shown(one.name)}` twice")
        tensors[one.name] = one
        begins.append((reader.number("Q"), _size(one.dtype, one.shape), one.name))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise reader.damaged(f"its alignment is {alignment}, no power of two")
    start = -reader.at % alignment + reader.at
    at = 0
    for begin, size, name in sorted(begins):
        if begin < at or begin % alignment:
            raise reader.damaged(f"the bytes of `{shown(name)}` begin at {begin}, among those of another")
        at = begin + size
    if begins and start + at > reader.source.size:
        raise reader.damaged(f"its tensors end at {start + at}, and the file has {reader.source.size} bytes")
    return tuple(tensors.values())


def _tensor(reader: _Reader) -> GGUFTensor:
    name = reader.text(LONGEST_NAME)
    dimensions = reader.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise reader.damaged(f"`{shown(name)}` has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
    number = reader.number("I")
    dtype = GGML_TYPES.get(number)
    if dtype is None:
        raise reader.damaged(f"`{shown(name)}` is of type {number}, which is not known", "update devpolicy")
    if prod(shape) > MOST_ELEMENTS:
        raise reader.damaged(f"`{shown(name)}` has more than {MOST_ELEMENTS} elements, the limit")
    if dtype in BLOCKS and (not shape or shape[-1] % BLOCKS[dtype][0]):
        raise reader.damaged(f"`{shown(name)}` has rows that are no whole blocks of {dtype}")
    return GGUFTensor(name, dtype, shape)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    if dtype in BLOCKS:
        elements, size = BLOCKS[dtype]
        return prod(shape) // elements * size
    return prod(shape) * DTYPE_BITS[dtype] // 8


class _Reader:
    """A header that is read forward."""

    def __init__(self, source: Bytes) -> None:
        self.source, self.at, self.order = source, 0, "<"
        self.strings = 0

    def damaged(self, reason: str, hint: str = "download it again") -> ModelError:
        """Return the error of a file that breaks the format."""
        return ModelError(Diagnostic("DP104", f"`{shown(self.source.name)}` is no GGUF file: {reason}", help=hint))

    def skip(self, length: int) -> None:
        """Go forward without reading."""
        self.at += length
        if self.at > min(self.source.size, LARGEST_HEADER):
            limit = "is cut short" if self.at > self.source.size else f"is larger than {LARGEST_HEADER} bytes"
            raise self.damaged(f"its header {limit}")

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        begin = self.at
        self.skip(length)
        content = self.source.read(begin, length)
        if len(content) < length:
            raise self.damaged("its header is cut short")
        return content

    def number(self, code: str) -> int:
        """Return the next whole number."""
        return int(self.scalar(code))

    def scalar(self, code: str) -> int | float | bool:
        """Return the next number of any kind."""
        (value,) = struct.unpack(self.order + code, self.take(struct.calcsize("<" + code)))
        found: int | float | bool = value
        return found

    def text(self, limit: int) -> str:
        """Return the next string."""
        length = self.number("Q")
        if length > limit:
            raise self.damaged(f"a name or text in it has {length} bytes, and the limit is {limit}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a name or text in it is no UTF-8") from None

    def value(self, kind: int) -> tuple[Value, int | None]:
        """Return the next value, and where it is a list its length; of a long list or text no value."""
        if kind == _STRING:
            length = self.number("Q")
            if length > LONGEST_TEXT:  # chat templates
                self.skip(length)
                return None, None
            return self.take(length).decode("utf-8", "replace"), None
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind]), None
        if kind != _ARRAY:
            raise self.damaged(f"a value in it is of type {kind}, which is not known")
        inner, length = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[inner])
            if length > MOST_KEPT:
                self.skip(length * width)
                return None, length
            return tuple(self.scalar(_SCALARS[inner]) for _ in range(length)), length
        if inner != _STRING:
            raise self.damaged(f"a list in it holds values of type {inner}")
        self.strings += length
        if self.strings > MOST_STRINGS:
            raise self.damaged(f"its lists hold more than {MOST_STRINGS} texts, the limit")
        for _ in range(length):
            self.skip(self.number("Q"))
        return None, length
