"""Hosts as TOML: the fields of a host file, reading, writing, and the catalogue.

Owns the file format and where host files are found. What makes a host well-formed is owned by
`devpolicy.host`; what is said here beside it is said because it has a better place in the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from devpolicy._shipped import shipped_files
from devpolicy._tables import (
    FLAG,
    SIZE,
    TEXT,
    Cursor,
    Field,
    Kind,
    did_you_mean,
    integer,
    list_of,
    read_table,
    table,
    wrong_type,
)
from devpolicy._toml import Document, quote, write_key
from devpolicy.errors import Diagnostic, HostError
from devpolicy.host import (
    ACCELERATOR_TYPES,
    ARCHITECTURES,
    FAULT_SOURCES,
    MOST_DEVICES,
    SYSTEMS,
    Accelerator,
    Host,
    normal_name,
)
from devpolicy.sizes import exact_size, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def _word(*known: str) -> Kind[str]:
    def read(value: object, cursor: Cursor) -> str | None:
        if not isinstance(value, str):
            wrong_type(value, cursor, "a string")
            return None
        name = normal_name(value)
        if name not in known:
            key = cursor.path[-1]
            cursor.error("DP104", f"`{value}` is no value of `{key}`", label="unknown", help=did_you_mean(name, known))
            return None
        return name

    return Kind("one of " + ", ".join(f'`"{name}"`' for name in known), read, {"enum": list(known)})


def _read_capability(value: object, cursor: Cursor) -> tuple[int, int] | None:
    parts = integer(most=999)
    if not isinstance(value, list) or len(value) != 2:
        wrong_type(value, cursor, "an array of two integers", "write `[8, 9]` for compute capability 8.9")
        return None
    major, minor = (parts.read(entry, cursor.at(index)) for index, entry in enumerate(value))
    return None if major is None or minor is None else (major, minor)


def _texts(known: tuple[str, ...] = ()) -> Kind[dict[str, str]]:
    def read(value: object, cursor: Cursor) -> dict[str, str] | None:
        if not isinstance(value, dict):
            wrong_type(value, cursor, "a table")
            return None
        what = f"[{cursor.path[-1]}]"
        for name in value:
            if known and name not in known:
                help_ = did_you_mean(name, known)
                cursor.at(name).error(
                    "DP103", f"unknown key `{name}` in {what}", label="unknown", help=help_, part="key"
                )
        return {name: text for name, entry in value.items() if (text := WORDS.read(entry, cursor.at(name))) is not None}

    names = {"propertyNames": {"enum": list(known)}} if known else {}
    return Kind("a table of text", read, {"type": "object", "additionalProperties": {"type": "string"}, **names})


def _read_words(value: object, cursor: Cursor) -> str | None:
    text = TEXT.read(value, cursor)
    if text == "":
        cursor.error("DP104", "this text is empty", label="leave the key out instead")
        return None
    return text


WORDS: Kind[str] = Kind("text", _read_words, {"type": "string", "minLength": 1})
CAPABILITY: Kind[tuple[int, int]] = Kind(
    "two integers",
    _read_capability,
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "minItems": 2, "maxItems": 2},
)

ACCELERATOR_FIELDS = (
    Field(
        "type", _word(*ACCELERATOR_TYPES), "What torch calls its type.", required=True, example='write `type = "cuda"`'
    ),
    Field("count", integer(1, MOST_DEVICES), "How many of them there are; `id` and `physical` then count up.", "1"),
    Field("id", integer(0, MOST_DEVICES - 1), "The ordinal that torch uses.", "the position among its type"),
    Field("memory", SIZE, "What the driver gives as its total.", required=True, example='write `memory = "24 GiB"`'),
    Field("free", SIZE, "What is free of it.", "`memory`"),
    Field("name", WORDS, "The name that the driver gives."),
    Field("capability", CAPABILITY, "CUDA's compute capability.", example="[8, 9]"),
    Field("unified", FLAG, "Whether it shares one pool of memory with the CPU.", "false, and true on mps"),
    Field("fault", WORDS, "Why it cannot be used: torch counts it, and nothing is planned on it."),
    Field("physical", integer(0, 2**31 - 1), "The driver's index, before `CUDA_VISIBLE_DEVICES`."),
    Field("uuid", WORDS, "The driver's UUID."),
)

ACCELERATOR = table(ACCELERATOR_FIELDS, what="[[accelerator]]", label="a key of an accelerator")

HOST_FIELDS = (
    Field("name", WORDS, "What the host is called.", "the file's name without `.toml`"),
    Field("description", WORDS, "A sentence for people."),
    Field("os", _word(*SYSTEMS), "The operating system.", '"linux"'),
    Field("arch", _word(*ARCHITECTURES), "The processor's architecture.", '"x86_64"'),
    Field("memory", SIZE, "RAM, in total.", required=True, example='write `memory = "64 GiB"`, the RAM in total'),
    Field("free", SIZE, "RAM that is available.", "`memory`"),
    Field("disk", SIZE, "The disk where offloaded weights would be written, in total.", "0"),
    Field("disk_free", SIZE, "What is free on it.", "`disk`"),
    Field("versions", _texts(), "Versions of software, by distribution name, with `python` and `driver`."),
    Field("faults", _texts(FAULT_SOURCES), "Why nothing of a type of accelerator can be used, or a source was silent."),
    Field("accelerator", list_of(ACCELERATOR), "The accelerators, each a [[accelerator]] table."),
)


def parse(text: str | bytes, source: str = "<string>") -> Host:
    """Read a host TOML. Raises `HostError` with every finding and its place."""
    return _read(_document(text, source))


def _document(text: str | bytes, source: str) -> Document:
    if isinstance(text, str):
        return Document(text, source, HostError)
    if isinstance(text, bytes):
        return Document.read(text, source, HostError)
    raise HostError(f"a host is read from TOML text, not from a value of type {type(text).__name__}")


def _read(document: Document, name: str | None = None) -> Host:
    cursor = Cursor(document, (), [])
    values = read_table(document.data, cursor, HOST_FIELDS, what="the host file", label="a key of a host file")
    _check_amounts(values, cursor, ("memory", "free"), ("disk", "disk_free"))
    # An array with a broken entry is not in `values`; then the findings say why.
    accelerators = _accelerators(values.pop("accelerator", ()), cursor.at("accelerator"))
    if not cursor.findings:
        host = _attempt(cursor, partial(Host, accelerators, **{"name": name, **values}))
        if host is not None:
            return host
    raise HostError(cursor.findings)


def _accelerators(tables: tuple[dict[str, Any], ...], cursor: Cursor) -> list[Accelerator]:
    result: list[Accelerator] = []
    for index, entry in enumerate(tables):
        here = cursor.at(index)
        result += _repeated(entry, here)
        # Whether ids go together is a host's own rule. Asked after each table, it has the table as its place.
        if _attempt(here, partial(Host, result, memory=0)) is None:
            break
    return result


def _repeated(entry: dict[str, Any], cursor: Cursor) -> Iterator[Accelerator]:
    """Yield what one [[accelerator]] table stands for, `count` devices."""
    facts = dict(entry)
    count = facts.pop("count", 1)
    before = len(cursor.findings)
    _check_amounts(facts, cursor, ("memory", "free"))
    if count > 1 and "uuid" in facts:
        message = f"`uuid` names one device, and `count` is {count}"
        cursor.at("uuid").error("DP106", message, help="write one table for each")
    for position in range(count):
        if len(cursor.findings) > before:
            return
        counted = {key: facts[key] + position for key in ("id", "physical") if key in facts}
        made = _attempt(cursor, partial(Accelerator, **(facts | counted)))
        if made is not None:
            yield made


def _check_amounts(values: dict[str, Any], cursor: Cursor, *pairs: tuple[str, str]) -> None:
    for total, free in pairs:
        if free in values and total in values and values[free] > values[total]:
            limit = format_size(values[total])
            cursor.at(free).error("DP106", f"`{free}` is larger than `{total}`", label=f"`{total}` is {limit}")
    if "disk_free" in values and "disk" not in values and values["disk_free"]:
        cursor.at("disk_free").error(
            "DP105", "`disk_free` is given, and `disk` is missing", label="free of what total?"
        )


def _attempt(cursor: Cursor, make: Callable[[], T]) -> T | None:
    """Make a value, or collect what its own rules say against it: these speak of several keys, so at the header."""
    try:
        return make()
    except HostError as broken:
        cursor.error("DP104", str(broken))
        return None


def catalogue() -> dict[str, Callable[[], bytes]]:
    """Return the shipped hosts as `{name: read}`; faulty ones are named `faulty/…` and come last."""
    groups = {"": shipped_files("fixtures", "hosts"), "faulty/": shipped_files("fixtures", "hosts", "faulty")}
    return {prefix + stem: file.read_bytes for prefix, files in groups.items() for stem, file in files.items()}


def load(name: str | PathLike[str]) -> Host:
    """Return a host by catalogue name, or from a file. Raises `HostError`."""
    if isinstance(name, str):
        known = catalogue()
        if name in known:
            return _read(_document(known[name](), f"{name}.toml"), name)
        if name.startswith("faulty/") or not _is_path(name):
            finding = Diagnostic("DP202", f"no host is named `{name}`", help=_way_out(name, known))
            raise HostError(finding)
    elif not isinstance(name, PathLike):
        raise HostError(f"a host is loaded by name or path, not by a value of type {type(name).__name__}")
    path = Path(str(fspath(name)))
    return _read(Document.open(path, HostError), path.stem)


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.endswith(".toml")


def _way_out(name: str, known: dict[str, Callable[[], bytes]]) -> str:
    # `ecc-on-query` was meant as `faulty/ecc-on-query`, which is not close as letters go.
    inside = [other for other in known if other.rpartition("/")[2] == name]
    likely = f"did you mean `{inside[0]}`?" if inside else did_you_mean(name, known)
    return f"{likely}\nfor a file, write its path with `.toml`"


def write(host: Host) -> str:
    """Return the host as TOML. Defaults are left out, equal devices in a row are one table with a `count`."""
    lines = [f"{key} = {quote(text)}" for key in ("name", "description", "os", "arch") if (text := getattr(host, key))]
    lines += _sizes(host, "memory", "free") + (_sizes(host, "disk", "disk_free") if host.disk else [])
    for key, pairs in (("versions", host.versions), ("faults", host.faults)):
        if pairs:
            lines += ["", f"[{key}]", *(f"{write_key(name)} = {quote(text)}" for name, text in pairs)]
    for first, count, ordinal_is_position in _runs(host.accelerators):
        lines += ["", "[[accelerator]]", *_accelerator_lines(first, count, ordinal_is_position)]
    return "\n".join(lines) + "\n"


def _runs(accelerators: tuple[Accelerator, ...]) -> Iterator[tuple[Accelerator, int, bool]]:
    """Yield the first device of each run of equal ones, the run's length, and whether its id is its position."""
    seen: Counter[str] = Counter()
    start = 0
    while start < len(accelerators):
        first = accelerators[start]
        assert first.id is not None  # INVARIANT: a host sets the ids of its accelerators
        end = start + 1
        alone = first.physical is not None or first.uuid is not None
        while not alone and end < len(accelerators) and accelerators[end] == first.at(first.id + end - start):
            end += 1
        yield first, end - start, first.id == seen[first.type]
        seen[first.type] += end - start
        start = end


def _accelerator_lines(accelerator: Accelerator, count: int, ordinal_is_position: bool) -> Iterator[str]:
    yield f"type = {quote(accelerator.type)}"
    if count > 1:
        yield f"count = {count}"
    if not ordinal_is_position:
        yield f"id = {accelerator.id}"
    yield from _sizes(accelerator, "memory", "free")
    for entry in fields(accelerator):
        value = getattr(accelerator, entry.name)
        if entry.name in ("type", "id", "memory", "free") or value is None:
            continue
        if entry.name == "unified":
            if value and accelerator.type != "mps":
                yield "unified = true"
        elif entry.name == "capability":
            yield f"capability = [{value[0]}, {value[1]}]"
        else:
            yield f"{entry.name} = {quote(value) if isinstance(value, str) else value}"


def _sizes(owner: object, total: str, free: str) -> list[str]:
    whole, part = getattr(owner, total), getattr(owner, free)
    lines = [f'{total} = "{exact_size(whole)}"']
    return lines if part == whole else [*lines, f'{free} = "{exact_size(part)}"']
