"""Device terms: `"cuda"`, `"cuda:1"`, `"cpu"`, `"disk"`, a class's name, `{ device = "cuda", count = 2 }`.

Owns how they are read, in which role a type may be used, and their JSON schema. It depends on no host: whether
there are such devices is the planner's question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from devpolicy._core.device import LARGEST_ID
from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy._core.language.devices import COUNT, COUNT_DOC, NAME, SAME
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.toml.document import Inside
from devpolicy._core.toml.tables import (
    JsonSchema,
    Kind,
    did_you_mean,
    fields_of,
    key,
    list_of,
    read_as,
    suggest,
    table_schema,
    wrong_type,
)
from devpolicy._core.toml.writer import quote

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor

Role = Literal["run", "keep", "avoid"]

TYPES = (*ACCELERATOR_TYPES, "cpu", "disk")

OTHER_NAMES = {
    "gpu": "cuda", "gpus": "cuda", "nvidia": "cuda", "amd": "cuda", "rocm": "cuda", "hip": "cuda",
    "metal": "mps", "apple": "mps", "intel": "xpu", "ascend": "npu", "gaudi": "hpu",
    "ram": "cpu", "host": "cpu", "nvme": "disk", "ssd": "disk",
}  # fmt: skip
"""What people call a type of device, and what torch calls it."""


def read_term(text: str, cursor: Cursor) -> DeviceSelector | None:
    """Read a term that is text. Collects DP201 or DP104."""
    if text in cursor.names:
        cls = cursor.names[text]
        return None if cls is None else DeviceSelector(cls.type, None, cls.count, cls.same, cls)
    name, colon, ordinal = text.partition(":")
    if name not in TYPES:
        _unknown_device(text, cursor)
        return None
    if not colon:
        return DeviceSelector(name)
    behind = Inside(text, len(name) + 1, len(ordinal))
    if name not in ACCELERATOR_TYPES:
        cursor.error("DP104", f"`{name}` has no numbers", label="there is one", help=f"write `{name}`")
    elif not re.fullmatch(r"[0-9]+", ordinal):
        hint = f"write `{name}:0`, or `{name}` for any of them"
        cursor.error("DP104", f"`{text}` is no device", label="not a number", help=hint, inside=behind)
    elif len(ordinal) > 1 and ordinal[0] == "0":
        hint = f"did you mean `{name}:{ordinal.lstrip('0') or '0'}`?"
        cursor.error("DP104", f"`{text}` is no device", label="a leading zero", help=hint, inside=behind)
    elif len(ordinal) > 3 or int(ordinal) > LARGEST_ID:
        hint = f"devices are numbered from 0 to {LARGEST_ID}, as torch counts them in this process"
        cursor.error("DP104", f"`{text}` is no device", label="too large", help=hint, inside=behind)
    else:
        return DeviceSelector(name, int(ordinal))
    return None


def _unknown_device(text: str, cursor: Cursor) -> None:
    word = text.partition(":")[0].strip().lower()
    known = (*TYPES, *cursor.names)
    meant = word if word in TYPES else suggest(text, cursor.names) or OTHER_NAMES.get(word) or suggest(word, known)
    listed = [part.strip() for part in text.split(",")]
    if len(listed) > 1:
        hint = f"write a list: `[{', '.join(map(quote, listed))}]`"
    elif word == "auto":
        hint = 'list what may be used, the best first: `prefer = ["cuda", "mps", "cpu"]`'
    elif meant:
        rest = text.partition(":")[2].strip()
        hint = f"did you mean `{meant}:{rest}`?" if rest and meant in ACCELERATOR_TYPES else f"did you mean `{meant}`?"
    else:
        hint = did_you_mean(word, known)
    label = "not a type or a class of devices" if cursor.names else "not a type of device"
    cursor.error("DP201", f"`{text}` is no device", label=label, help=hint)


def _read_term_table(value: dict[str, object], cursor: Cursor) -> DeviceSelector | None:
    before = len(cursor.findings)
    keys = read_as(TermTable, value, cursor, what="a device term", label="a key of a device term")
    device = keys.device
    if len(cursor.findings) > before or device is None:
        return None
    if device.type not in ACCELERATOR_TYPES:
        cursor.error("DP106", f"`{device}` is one device: it has no `count` and no `same`", help=f'write "{device}"')
        return None
    count = device.count if keys.count is None else keys.count
    if device.id is not None and (count > 1 or "same" in value):
        hint = f'write `device = "{device.type}"` for any of them'
        cursor.error("DP106", f"`{device}` is one device, and `count` and `same` are for several", help=hint)
        return None
    same = device.same if keys.same is None else keys.same
    return replace(device, count=count if device.id is None else 0, same=same)


_ID = rf"(:([0-9]|[1-9][0-9]|1[01][0-9]|12[0-{LARGEST_ID % 10}]))?"
_TYPE = f"({'|'.join(ACCELERATOR_TYPES)})"
# A schema cannot tell a class of [devices] from a misspelt type.
DEVICE_PATTERN = f"^({_TYPE}{_ID}|(?!(cpu|disk)$){NAME})$"
ACCELERATOR_SCHEMA: JsonSchema = {"type": "string", "pattern": DEVICE_PATTERN}

_DEVICE: Kind[DeviceSelector] = Kind(
    "a device",
    lambda value, cursor: read_term(value, cursor) if isinstance(value, str) else wrong_type(value, cursor, "a string"),
    ACCELERATOR_SCHEMA,
)


@dataclass(frozen=True)
class TermTable:
    """The keys of a device term that is a table."""

    device: DeviceSelector | None = key(
        _DEVICE, "A type or a class of accelerators.", required=True, example='write `device = "cuda"`'
    )
    count: int | None = key(COUNT, COUNT_DOC)
    same: tuple[str, ...] | None = key(SAME, "Attributes that the devices must share.")


def term(role: Role) -> Kind[DeviceSelector]:
    """Return the kind of device terms in one role: where modules run, where weights are kept, what is avoided."""

    wanted = '"cpu" or "disk", or a list of both' if role == "keep" else "a device, or a list of devices"

    def read(value: object, cursor: Cursor) -> DeviceSelector | None:
        found: DeviceSelector | None = None
        if isinstance(value, str):
            found = read_term(value, cursor)
        elif isinstance(value, dict) and role == "run":
            found = _read_term_table(value, cursor)
        else:
            hint = 'write "cuda:1" for the one that torch calls by a number' if type(value) is int else ""
            wrong_type(value, cursor, wanted, "" if role == "keep" else hint)
        if found is None:
            return None
        if role == "run" and found.type == "disk":
            hint = 'did you mean `offload`, or `overflow = "disk"` for what does not fit?'
            cursor.error("DP110", "nothing runs on the disk", label="`prefer` names where modules run", help=hint)
            return None
        if role == "keep" and found.type in ACCELERATOR_TYPES:
            hint = 'weights are stored on "cpu" or "disk"; `prefer` sets where modules run'
            cursor.error("DP110", f"weights are not stored on `{found}`", label="a device that runs modules", help=hint)
            return None
        return found

    if role == "keep":
        return Kind('`"cpu"` or `"disk"`', read, {"enum": ["cpu", "disk"]})
    if role == "avoid":
        return Kind("a device", read, {"anyOf": [ACCELERATOR_SCHEMA, {"enum": ["cpu", "disk"]}]})
    return Kind(
        "a device", read, {"anyOf": [ACCELERATOR_SCHEMA, table_schema(fields_of(TermTable)), {"enum": ["cpu"]}]}
    )


RUN = list_of(term("run"), or_one=True, least=1)
"""Where modules run."""
KEEP = list_of(term("keep"), or_one=True, least=1)
"""Where weights are kept."""
SPILL = list_of(term("keep"), or_one=True)
"""The same, where an empty list means nowhere."""
AVOID = list_of(term("avoid"), or_one=True)
