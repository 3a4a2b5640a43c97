"""The keys of a host file.

Owns the table of fields from which the file is read, and a schema and a reference page can be
made. A new fact of a host or an accelerator is a line here and a field of the value.
"""

from __future__ import annotations

from devpolicy._core.host.facts import (
    ACCELERATOR_TYPES,
    ARCHITECTURES,
    FAULT_SOURCES,
    MATMUL_DTYPES,
    MOST_DEVICES,
    SPEEDS,
    SYSTEMS,
    normal_name,
)
from devpolicy._core.toml.tables import (
    FLAG,
    SIZE,
    TEXT,
    Cursor,
    Field,
    Kind,
    did_you_mean,
    integer,
    list_of,
    table,
    wrong_type,
)


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


def _read_rate(value: object, cursor: Cursor) -> int | None:
    found = SIZE.read(value, cursor)
    if found == 0:
        cursor.error("DP104", "a speed is more than nothing", label="leave the key out instead")
        return None
    return found


RATE: Kind[int] = Kind("bytes in a second", _read_rate, SIZE.schema)
WORDS: Kind[str] = Kind("text", _read_words, {"type": "string", "minLength": 1})
CAPABILITY: Kind[tuple[int, int]] = Kind(
    "two integers",
    _read_capability,
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "minItems": 2, "maxItems": 2},
)

_MATMUL = tuple(
    Field(
        f"matmul_{dtype}", integer(1, 10**18), f"Operations of large matrix products in {dtype} in a second.", "a guess"
    )
    for dtype in MATMUL_DTYPES
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
    Field(
        "memory_pressure",
        SIZE,
        "What another process takes of it between one question for its free memory and the next, in a simulation.",
        "0",
    ),
    Field("neighbour", SIZE, "An earlier name of `memory_pressure`."),
    Field("bandwidth", RATE, "Bytes that it reads from its memory in a second.", "by its `name`"),
    *_MATMUL,
)

SPEED_FIELDS = (
    Field("ram", RATE, "Bytes read from RAM in a second.", '"63 GB"'),
    Field("ram_bfloat16", RATE, "The same of weights in bfloat16.", "`ram`"),
    Field("ram_float16", RATE, "The same of weights in float16.", "`ram`"),
    Field("link", RATE, "Bytes brought from RAM to an accelerator in a second.", '"10 GB"'),
    Field("link_back", RATE, "Bytes brought from an accelerator to RAM in a second."),
    Field("disk", RATE, "Bytes read from the disk in a second.", '"3 GB"'),
    Field("crossing_ns", integer(0, 10**9), "Nanoseconds that handing over between two devices takes.", "40000"),
    Field("call_ns", integer(0, 10**9), "Nanoseconds that calling one module takes, beside its products.", "0"),
    Field("onload_ns", integer(0, 10**9), "Nanoseconds that bringing one tensor in takes, beside its bytes.", "0"),
    *_MATMUL,
)
assert tuple(entry.name for entry in SPEED_FIELDS) == SPEEDS

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
    Field("versions", _texts(), "Versions of software, by distribution name, with `python`, `driver` and `macos`."),
    Field("faults", _texts(FAULT_SOURCES), "Why nothing of a type of accelerator can be used, or a source was silent."),
    Field("speed", table(SPEED_FIELDS, what="[speed]", label="a key of [speed]"), "What predictions of time go by."),
    Field("measured", WORDS, "When the speeds were measured: `devpolicy host measure` writes it."),
    Field("accelerator", list_of(ACCELERATOR), "The accelerators, each a [[accelerator]] table."),
)
