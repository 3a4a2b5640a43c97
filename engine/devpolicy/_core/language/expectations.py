"""The values that a `[[test]]` holds: names, expected places, codes, and what varies.

Owns them, each with its place, and how they are read. Which key takes which is in `tests`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devpolicy._core.codes import CODES
from devpolicy._core.host import ACCELERATOR_TYPES, MOST_DEVICES
from devpolicy._core.language.kinds import read_pattern
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.terms import ACCELERATOR_SCHEMA, OTHER_NAMES, read_term
from devpolicy._core.language.values import DeviceSelector
from devpolicy._core.toml.tables import (
    SIZE,
    TEXT,
    Cursor,
    JsonSchema,
    Kind,
    did_you_mean,
    fields_of,
    integer,
    key,
    list_of,
    read_as,
    table_schema,
    wrong_type,
)

if TYPE_CHECKING:
    from devpolicy._core.errors import Place


@dataclass(frozen=True, slots=True)
class Word:
    """A name that a test gives, to be looked up, and its place."""

    text: str
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Expected:
    """Where the modules of a pattern are expected: stored on `device`, run on `runs_on`; `None` expects nothing."""

    module: Pattern | None
    """`None` is the whole model."""
    device: DeviceSelector | None = None
    runs_on: DeviceSelector | None = None
    rule: str | None = None
    """The rule, or `prefer` or `overflow`, that must have decided it (`by`)."""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that `vary` changes of a host: `cuda.free`, `cuda:1.memory`, `cuda.count`, `memory`, `disk`, ..."""

    device: str
    """A type of accelerator or one device; empty for the machine's own."""
    fact: str
    values: tuple[int, ...]
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.device}.{self.fact}" if self.device else self.fact


# Reading.


def _read_word(value: object, cursor: Cursor) -> Word | None:
    text = TEXT.read(value, cursor)
    if text is None:
        return None
    if not text.strip():
        cursor.error("DP104", "this name is empty", label="nothing is called so")
        return None
    return Word(text, cursor.document.place(cursor.path))


WORD: Kind[Word] = Kind("a name", _read_word, {"type": "string", "minLength": 1})


def _read_device(value: object, cursor: Cursor) -> DeviceSelector | None:
    if isinstance(value, str):
        return read_term(value, cursor)
    wrong_type(value, cursor, "a device", 'such as "cuda:0", "cuda" for any of them, "cpu" or "disk"')
    return None


def _read_running(value: object, cursor: Cursor) -> DeviceSelector | None:
    found = _read_device(value, cursor)
    if found is not None and found.type == "disk":
        hint = 'expect modules that are kept there by their names: `expect = { lm_head = "disk" }`'
        cursor.error("DP110", "nothing runs on the disk", label="where weights are kept", help=hint)
        return None
    return found


_DEVICE_SCHEMA: JsonSchema = {"anyOf": [ACCELERATOR_SCHEMA, {"enum": ["cpu", "disk"]}]}
_KEPT: Kind[DeviceSelector] = Kind("a device", _read_device, _DEVICE_SCHEMA)
_RUNS: Kind[DeviceSelector] = Kind("a device", _read_running, {"anyOf": [ACCELERATOR_SCHEMA, {"enum": ["cpu"]}]})


def _read_code(value: object, cursor: Cursor) -> str | None:
    code = TEXT.read(value, cursor)
    if code is None:
        return None
    refusals = [known for known in CODES if known[:3] in ("DP3", "DP4")]
    if code not in refusals:
        known = code in CODES
        hint = "the codes of refusals are DP3xx and DP4xx" if known else did_you_mean(code, refusals)
        label = "not a refusal's" if known else "no code"
        cursor.error("DP104", f"no plan is refused with `{code}`", label=label, help=hint)
        return None
    return code


CODE: Kind[str] = Kind('a code, such as `"DP301"`', _read_code, {"type": "string", "pattern": "^DP[34][0-9]{2}$"})


def _modules(value: object, cursor: Cursor, what: str) -> dict[str, tuple[object, Cursor]]:
    """Return the entries of a table of modules by path, with nested tables flattened, as in `[offload]`."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, what)
        return {}
    if not value:
        cursor.error("DP104", "this table is empty", label="says nothing")
    found: dict[str, tuple[object, Cursor]] = {}
    waiting: list[tuple[tuple[str, ...], object]] = [((), value)]
    while waiting:
        keys, entry = waiting.pop(0)
        if isinstance(entry, dict) and not (keys and entry.keys() & {"device", "runs_on"}):
            waiting = [((*keys, key), inner) for key, inner in entry.items()] + waiting
        else:
            found[".".join(keys)] = (entry, cursor.at(*keys))
    return found


def _read_expect(value: object, cursor: Cursor) -> tuple[Expected, ...] | None:
    if isinstance(value, str):
        device = _RUNS.read(value, cursor)
        return None if device is None else (Expected(None, device, device, place=cursor.document.place(cursor.path)),)
    before = len(cursor.findings)
    entries = _modules(value, cursor, "a device, or a table of modules with their devices")
    found = [_expected(path, entry, here) for path, (entry, here) in entries.items()]
    if len(cursor.findings) > before:
        return None
    return tuple(one for one in found if one is not None)


@dataclass(frozen=True)
class _WhereTable:
    device: DeviceSelector | None = key(_KEPT, "Where the weights are kept.")
    runs_on: DeviceSelector | None = key(_RUNS, "Where the module runs.")


def _expected(path: str, entry: object, cursor: Cursor) -> Expected | None:
    pattern = read_pattern(path, cursor.on_key()) if path else None
    place = cursor.document.place(cursor.path)
    if isinstance(entry, dict):
        keys = read_as(_WhereTable, entry, cursor, what="an expected place", label="a key of it")
        return Expected(pattern, keys.device, keys.runs_on, place=place)
    return Expected(pattern, _KEPT.read(entry, cursor), place=place)


def _read_by(value: object, cursor: Cursor) -> tuple[Expected, ...] | None:
    before = len(cursor.findings)
    found: list[Expected] = []
    for path, (entry, here) in _modules(value, cursor, "a table of modules with the rules that decide them").items():
        rule = TEXT.read(entry, here)
        pattern = read_pattern(path, here.on_key()) if path else None
        found.append(Expected(pattern, rule=rule, place=here.document.place(here.path)))
    return None if len(cursor.findings) > before else tuple(found)


SIZES = list_of(SIZE, or_one=True, least=1)
_OF_A_DEVICE = ("free", "memory", "count")
_OF_THE_HOST = ("memory", "free", "disk", "disk_free")
MOST_CASES = 20_000
"""Variations of one test, beyond which nobody waits for it."""


def _read_vary(value: object, cursor: Cursor) -> tuple[Dimension, ...] | None:
    before = len(cursor.findings)
    cases = 1
    found: list[Dimension] = []
    entries = _modules(value, cursor, "a table of what varies, with its values")
    for name, (values, here) in entries.items():
        made = _dimension(name, values, here)
        if made is not None:
            found.append(made)
            cases *= len(made.values)
    if cases > MOST_CASES:
        cursor.error("DP104", f"these are {cases} variations", label=f"more than {MOST_CASES}")
    return None if len(cursor.findings) > before else tuple(found)


def _dimension(name: str, values: object, cursor: Cursor) -> Dimension | None:
    device, _, fact = name.rpartition(".")
    kind, colon, number = device.partition(":")
    known = [*_OF_THE_HOST, *(f"{kind}.{fact}" for fact in _OF_A_DEVICE for kind in ("cuda", *ACCELERATOR_TYPES))]
    is_one = bool(colon) and number.isdecimal() and int(number) < MOST_DEVICES and fact != "count"
    sound = kind in ACCELERATOR_TYPES and fact in _OF_A_DEVICE and (not colon or is_one)
    if not (sound if device else fact in _OF_THE_HOST):
        meant = OTHER_NAMES.get(kind)
        hint = f"did you mean `{meant}.{fact}`?" if meant else did_you_mean(name, dict.fromkeys(known))
        cursor.error("DP104", f"`{name}` is nothing that varies", label="unknown", help=hint, part="key")
        return None
    counts = list_of(integer(0, 1 if kind == "mps" else 64), or_one=True, least=1)
    read = (counts if fact == "count" else SIZES).read(values, cursor)
    return None if read is None else Dimension(device, fact, read, cursor.document.place(cursor.path, "key"))


_NESTED: JsonSchema = {"allOf": [{"$ref": "#/definitions/expect"}]}
EXPECT: Kind[tuple[Expected, ...]] = Kind(
    "a device, or a table: module or pattern = device", _read_expect, {"anyOf": [_RUNS.schema, _NESTED]}
)
BY: Kind[tuple[Expected, ...]] = Kind(
    "a table: module or pattern = rule", _read_by, {"allOf": [{"$ref": "#/definitions/by"}]}
)
EXPECT_SCHEMA: JsonSchema = {
    "type": "object",
    "minProperties": 1,
    "not": {"anyOf": [{"required": ["device"]}, {"required": ["runs_on"]}]},
    "additionalProperties": {
        "anyOf": [_DEVICE_SCHEMA, {**table_schema(fields_of(_WhereTable)), "minProperties": 1}, _NESTED]
    },
}
"""The table of `expect`: modules, whose dots may be nested tables."""
BY_SCHEMA: JsonSchema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [{"type": "string"}, {"allOf": [{"$ref": "#/definitions/by"}]}]},
}


def _vary_schema() -> JsonSchema:
    types, counts = "|".join(ACCELERATOR_TYPES), list_of(integer(0, 64), or_one=True, least=1).schema
    amounts = {"free": SIZES.schema, "memory": SIZES.schema}
    of_a_device = {"type": "object", "properties": {**amounts, "count": counts}, "additionalProperties": False}
    return {
        "type": "object",
        "minProperties": 1,
        "properties": dict.fromkeys(_OF_THE_HOST, SIZES.schema),
        "patternProperties": {
            rf"^({types})(:[0-9]+)?\.(free|memory)$": SIZES.schema,
            rf"^({types})\.count$": counts,
            rf"^({types})(:[0-9]+)?$": of_a_device,
        },
        "additionalProperties": False,
    }


VARY: Kind[tuple[Dimension, ...]] = Kind("a table: what varies = its values", _read_vary, _vary_schema())
