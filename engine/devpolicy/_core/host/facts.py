"""Single facts of a host: the words that are known, and what makes a value well-formed.

Owns the checks that every way to make a host shares, whether a fact comes from a caller, a file or
a driver. Each check returns the fact as it is kept, or raises `HostError` that names the key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from devpolicy._core.errors import HostError
from devpolicy._core.sizes import SizeError, parse_size
from devpolicy._core.toml.tables import suggest

ACCELERATOR_TYPES = ("cuda", "mps", "xpu", "npu", "hpu")

MOST_DEVICES = 128
"""torch keeps a device's index in a signed byte: ids are 0 to 127."""

SYSTEMS = ("linux", "macos", "windows", "other")
ARCHITECTURES = ("x86_64", "arm64", "ppc64le", "riscv64", "s390x", "other")
FAULT_SOURCES = (*ACCELERATOR_TYPES, "nvml", "torch", "psutil", "disk")
"""What a fault may be of: everything of a type of accelerator, or a source that was asked for facts."""
SOFTWARE = (
    *("python", "driver", "macos"),
    *("torch", "transformers", "accelerate", "safetensors", "haystack-ai", "spacy"),
    *("bitsandbytes", "compressed-tensors", "gptqmodel", "kernels", "optimum", "optimum-quanto", "torchao", "triton"),
)
"""The software whose version a probe looks for, so that a policy may ask for it."""

_AMD = re.compile(r"\b(amd|radeon|instinct|mi\d{2,3}\w?)\b", re.IGNORECASE)


def is_amd(name: str | None) -> bool:
    """Whether an accelerator of this name is one of AMD's: its driver and its engines have other names for it."""
    return bool(_AMD.search(name or ""))


# The same thing under the names that uname, Windows and package tags give it.
_OTHER_NAMES = {"darwin": "macos", "win32": "windows", "amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}

MATMUL_DTYPES = ("float32", "bfloat16", "float16")
MATMUL = tuple(f"matmul_{dtype}" for dtype in MATMUL_DTYPES)
"""The operations of large matrix products in a second, by the dtype of both factors."""

_TIMES = ("crossing_ns", "call_ns", "onload_ns")
SPEEDS = ("ram", "ram_bfloat16", "ram_float16", "link", "link_back", "disk", *_TIMES, *MATMUL)
"""What a host may say of its speed: bytes per second read from RAM (of weights in float32, else in the dtype named),
brought from RAM to an accelerator and back, and read from the disk; the nanoseconds that handing over between two
devices, calling a module and bringing one tensor in take; and operations of matrix products on the CPU in a second."""

Size = int | str
Speeds = Mapping[str, Size] | Iterable[tuple[str, Size]]
Pairs = Mapping[str, str] | Iterable[tuple[str, str]]


def normal_name(word: str) -> str:
    """Return a system or architecture under the name used here: `Darwin` is `macos`, `aarch64` is `arm64`."""
    return _OTHER_NAMES.get(word.lower(), word.lower())


def shown(value: object) -> str:
    """Return a value for a message."""
    # Of anything that is neither text nor a plain number the type says enough, and showing it might fail.
    if value is None or isinstance(value, str | bool | float):
        return f"`{value}`"
    return f"a value of type {type(value).__name__}"


def known_word(word: object, key: str, known: tuple[str, ...]) -> str:
    """Return a word that is one of `known`, under its usual name."""
    if not isinstance(word, str):
        raise HostError(f"`{key}` is one of {', '.join(known)}, not {shown(word)}")
    name = normal_name(word)
    if name not in known:
        close = suggest(name, known)
        way_out = f"did you mean `{close}`?" if close else f"known are {', '.join(known)}"
        raise HostError(f"`{word}` is no value of `{key}`: {way_out}")
    return name


def amounts(total: Size, free: Size | None, total_key: str, free_key: str) -> tuple[int, int]:
    """Return a total and what is free of it, in bytes."""
    whole = size(total, total_key)
    part = whole if free is None else size(free, free_key)
    # INVARIANT: free <= total, everywhere; budgets are computed from either.
    if part > whole:
        raise HostError(f"`{free_key}` is larger than `{total_key}`: {part} of {whole} bytes")
    return whole, part


def size(value: Size, key: str) -> int:
    """Return an amount in bytes."""
    try:
        return parse_size(value)
    except SizeError as broken:
        raise HostError(f"`{key}`: {broken}") from None


def index(value: object, key: str, most: int) -> int | None:
    """Return a whole number from 0 to `most`, or `None`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise HostError(f"`{key}` is a whole number, not {shown(value)}")
    if not 0 <= value <= most:
        raise HostError(f"`{key}` is between 0 and {most}")
    return value


def text(value: object, key: str) -> str:
    """Return text that is not empty and that a file can hold."""
    if not isinstance(value, str) or not value:
        raise HostError(f"`{key}` is text that is not empty, not {shown(value)}")
    if not value.isascii():
        # Half of a surrogate pair can stand in a `str` and in no file.
        try:
            value.encode()
        except UnicodeEncodeError:
            raise HostError(f"`{key}` holds characters that cannot be written as UTF-8") from None
    return value


def optional_text(value: object, key: str) -> str | None:
    """Return such text, or `None`."""
    return None if value is None else text(value, key)


def capability_pair(value: object) -> tuple[int, int] | None:
    """Return a compute capability, or `None`."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(type(part) is int and 0 <= part < 1000 for part in pair):
        raise HostError("`capability` is two whole numbers, such as (8, 9)")
    return pair


def pairs_of_text(value: Pairs, key: str, known: tuple[str, ...] = ()) -> tuple[tuple[str, str], ...]:
    """Return a mapping or pairs as pairs, sorted by name; the names are some of `known`, where it is given."""
    try:
        pairs = [(name, entry) for name, entry in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise HostError(f"`{key}` takes a mapping, or pairs of text") from None
    named = [(known_word(name, key, known) if known else text(name, key), text(entry, key)) for name, entry in pairs]
    for name, count in Counter(name for name, _ in named).items():
        if count > 1:
            raise HostError(f"`{key}` names `{name}` {count} times")
    return tuple(sorted(named))


def rate(value: Size | None, key: str) -> int | None:
    """Return bytes per second, more than none, or `None`."""
    if value is None:
        return None
    found = size(value, key)
    if not found:
        raise HostError(f"`{key}` is more than nothing")
    return found


def operations(value: object, key: str) -> int | None:
    """Return operations per second, more than none, or `None`."""
    found = index(value, key, 10**18)
    if found == 0:
        raise HostError(f"`{key}` is more than nothing")
    return found


def speeds(value: Speeds) -> tuple[tuple[str, int], ...]:
    """Return the speeds that a host states, as pairs sorted by name."""
    try:
        pairs = [(name, entry) for name, entry in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise HostError("`speed` takes a mapping, or pairs") from None
    found: dict[str, int] = {}
    for name, entry in pairs:
        word = known_word(name, "speed", SPEEDS)
        if word in found:
            raise HostError(f"`speed` names `{word}` twice")
        if word in _TIMES:
            found[word] = index(entry, word, 10**9) or 0
        elif word in MATMUL:
            found[word] = operations(entry, word) or 0
        else:
            found[word] = rate(entry, word) or 0
    return tuple(sorted(found.items()))
