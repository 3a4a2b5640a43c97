"""TOML tables described by fields, and read with every finding at once.

Owns `Field` and `Kind`, from which a reader, a JSON schema and a reference page are all made, `key`, with which a
dataclass is its own table of fields, and `Cursor`, which knows where in a document one is and collects what is wrong
there. Each file format (policy, host, model) brings its own tables.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from devpolicy._core.errors import Diagnostic
from devpolicy._core.sizes import SizeError, parse_size

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.toml.document import Inside, Part
    from devpolicy._core.toml.spans import KeyPath

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

JsonSchema = dict[str, Any]


class Origins(Protocol):
    """Where keys and values were written: one document, or several in one."""

    @property
    def source(self) -> str:
        """What messages call the text."""
        ...

    def place(self, path: KeyPath, part: Part = "value", inside: Inside | None = None) -> Place:
        """Return the place of the key or the value of `path`."""
        ...

    def order(self, path: KeyPath) -> tuple[int, ...]:
        """Return what sorts keys in the order in which they count."""
        ...

    def written(self, path: KeyPath) -> tuple[str, KeyPath]:
        """Return the name of the part that a key comes from, empty for the text itself, and its path there."""
        ...

    def folder(self, path: KeyPath) -> str | None:
        """Return the folder of the file that holds a key, `None` where it is no file."""
        ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """A value's key path in a document, and the list that takes what is wrong with it."""

    document: Origins
    path: KeyPath
    findings: list[Diagnostic]
    part: Part = "value"
    """What errors point at where they do not say."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """What the document defines by name, for kinds of values that refer to it; `None` where it is malformed."""

    def on_key(self) -> Cursor:
        """Return a cursor whose errors point at the key: for keys that are read like values."""
        return Cursor(self.document, self.path, self.findings, "key", self.names)

    def at(self, *keys: str | int) -> Cursor:
        """Return the cursor of something inside this value."""
        return Cursor(self.document, (*self.path, *keys), self.findings, names=self.names)

    def error(
        self,
        code: str,
        message: str,
        *,
        label: str = "",
        help: str = "",  # noqa: A002 - the word of the message
        notes: Iterable[str] = (),
        part: Part | None = None,
        inside: Inside | None = None,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Collect an error at this value, its key, or its table's header. Returns nothing, so that a reader goes on."""
        place = self.document.place(self.path, part or self.part, inside)
        self.findings.append(Diagnostic(code, message, place, label, tuple(notes), help, severity))


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of value: how it is read, how it is called in the reference, and its JSON schema.

    `read` returns the value, or `None` after it has collected an error.
    """

    name: str
    read: Callable[[object, Cursor], T | None]
    schema: JsonSchema = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a table: its kind, what it means, and where a reader may leave it out."""

    name: str
    kind: Kind[Any]
    doc: str
    default: str = ""
    example: str = ""
    """The help line where the key is missing."""
    required: bool = False


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the known word that was most likely meant, in whatever case, or an empty string."""
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.7)
    return folded[close[0]] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the help line of a misspelt word: the likely one, else all that are known (at most 12)."""
    options = list(known)
    close = suggest(word, options)
    if close:
        return f"did you mean `{close}`?"
    listed = ", ".join(f"`{option}`" for option in options[:12])
    return f"known are {listed}" + (" and others" if len(options) > 12 else "")


def describe(value: object) -> str:
    """Return the TOML name of a value's type, for a message."""
    names: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "a string"),
        (list, "an array"),
        (dict, "a table"),
    ]
    return next((name for types, name in names if isinstance(value, types)), "a date or time")


def wrong_type(value: object, cursor: Cursor, wanted: str, hint: str = "") -> None:
    """Collect DP102: this value is of another type than the key takes."""
    key = next((str(part) for part in reversed(cursor.path) if isinstance(part, str)), "this")
    cursor.error("DP102", f"`{key}` takes {wanted}, not {describe(value)}", label=f"expected {wanted}", help=hint)


def read_table(
    value: object, cursor: Cursor, fields: Sequence[Field], *, what: str, label: str = "this table"
) -> dict[str, Any]:
    """Read a table by its fields and return what was well-formed, by key, in the fields' order.

    `what` names the table in messages (`[[rule]] "big-experts"`), `label` what a key of it is called
    (`a rule key`). Unknown keys (DP103) and missing keys (DP105) are collected.
    """
    if not isinstance(value, Mapping):
        wrong_type(value, cursor, "a table")
        return {}
    known = {entry.name: entry for entry in fields}
    misspelt: set[str] = set()
    for key in value:
        entry = known.get(key)
        if entry is None:
            misspelt.add(suggest(key, known))
            hint = _inside(key, fields) or did_you_mean(key, known)
            cursor.at(key).error("DP103", f"unknown key `{key}` in {what}", label=f"not {label}", help=hint, part="key")
    result: dict[str, Any] = {}
    for entry in fields:
        if entry.name in value:
            read = entry.kind.read(value[entry.name], cursor.at(entry.name))
            if read is not None:
                result[entry.name] = read
        elif entry.required and entry.name not in misspelt:
            cursor.error("DP105", f"`{entry.name}` is missing in {what}", help=entry.example, part="header")
    return result


def _inside(key: str, fields: Sequence[Field]) -> str:
    """Return the help for a key that belongs into one of the tables of a table; empty for any other."""
    tables = [one.name for one in fields if key in one.kind.schema.get("properties", {})]
    if len(tables) != 1 or suggest(key, [one.name for one in fields]):
        return ""
    return f"did you mean `{tables[0]}.{key}`?"


def table_schema(fields: Sequence[Field]) -> JsonSchema:
    """Return the JSON schema (draft 7) of a table with these fields."""
    schema: JsonSchema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {entry.name: {"description": entry.doc, **entry.kind.schema} for entry in fields},
    }
    required = [entry.name for entry in fields if entry.required]
    return {**schema, "required": required} if required else schema


# The kinds that every file format uses.


def _read_text(value: object, cursor: Cursor) -> str | None:
    if isinstance(value, str):
        return value
    wrong_type(value, cursor, "a string")
    return None


def _read_flag(value: object, cursor: Cursor) -> bool | None:
    if isinstance(value, bool):
        return value
    wrong_type(value, cursor, "a boolean", "write `true` or `false`, without quotes")
    return None


def _read_size(value: object, cursor: Cursor) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        wrong_type(value, cursor, "a size", 'write bytes, or text with a unit such as "24 GiB"')
        return None
    try:
        return parse_size(value)
    except SizeError as broken:
        cursor.error("DP104", str(broken), label="not a size")
        return None


TEXT: Kind[str] = Kind("text", _read_text, {"type": "string"})
FLAG: Kind[bool] = Kind("true or false", _read_flag, {"type": "boolean"})
SIZE: Kind[int] = Kind(
    "a size",
    _read_size,
    {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[KMGTPkmgtp]?i?[Bb]\s*$"},
        ]
    },
)


def integer(least: int = 0, most: int = 2**53) -> Kind[int]:
    """Return the kind of whole numbers from `least` to `most`, both ends in."""

    def read(value: object, cursor: Cursor) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int):
            wrong_type(value, cursor, "an integer")
            return None
        if not least <= value <= most:
            cursor.error("DP104", f"`{value}` is not between {least} and {most}", label="out of range")
            return None
        return value

    return Kind("a whole number", read, {"type": "integer", "minimum": least, "maximum": most})


def choice(*options: Word) -> Kind[Word]:
    """Return the kind of text that is one of `options`."""

    def read(value: object, cursor: Cursor) -> Word | None:
        if not isinstance(value, str):
            wrong_type(value, cursor, "one of " + ", ".join(f'"{option}"' for option in options))
            return None
        found = next((option for option in options if option == value), None)
        if found is None:
            key = next((str(part) for part in reversed(cursor.path) if isinstance(part, str)), "this")
            cursor.error(
                "DP104", f"`{value}` is no value of `{key}`", label="not one of them", help=did_you_mean(value, options)
            )
        return found

    return Kind(" or ".join(f'`"{option}"`' for option in options), read, {"enum": list(options)})


def list_of(item: Kind[T], *, or_one: bool = False, least: int = 0, most: int = 0) -> Kind[tuple[T, ...]]:
    """Return the kind of arrays of `item`; with `or_one`, a single item is read as an array of one.

    `most` 0 is no limit.
    """

    def read(value: object, cursor: Cursor) -> tuple[T, ...] | None:
        if not isinstance(value, list):
            if or_one:
                one = item.read(value, cursor)
                return None if one is None else (one,)
            wrong_type(value, cursor, "an array")
            return None
        if len(value) < least:
            cursor.error("DP104", "this list is empty", label=f"needs at least {least}")
            return None
        if most and len(value) > most:
            cursor.error("DP104", f"this list has {len(value)} entries", label=f"more than {most}")
            return None
        read_items = [item.read(entry, cursor.at(index)) for index, entry in enumerate(value)]
        # One bad item spoils the list: a shorter list would be another meaning.
        good = tuple(entry for entry in read_items if entry is not None)
        return good if len(good) == len(value) else None

    array: JsonSchema = {"type": "array", "items": item.schema}
    if least:
        array["minItems"] = least
    if most:
        array["maxItems"] = most
    name = f"{item.name} or a list of them" if or_one else f"a list of {item.name}"
    return Kind(name, read, {"anyOf": [item.schema, array]} if or_one else array)


def table(fields: Sequence[Field], *, what: str, label: str) -> Kind[dict[str, Any]]:
    """Return the kind of tables with these fields."""

    def read(value: object, cursor: Cursor) -> dict[str, Any] | None:
        before = len(cursor.findings)
        result = read_table(value, cursor, fields, what=what, label=label)
        return result if len(cursor.findings) == before else None

    return Kind("a table", read, table_schema(fields))


# Dataclasses that are tables: each attribute is a key.


@overload
def key(
    kind: Kind[T],
    doc: str,
    *,
    value: T,
    default: str = "",
    example: str = "",
    name: str = "",
    required: bool = False,
) -> T: ...
@overload
def key(
    kind: Kind[T], doc: str, *, default: str = "", example: str = "", name: str = "", required: bool = False
) -> T | None: ...
def key(
    kind: Kind[Any],
    doc: str,
    *,
    value: object = None,
    default: str = "",
    example: str = "",
    name: str = "",
    required: bool = False,
) -> Any:
    """Return what an attribute of a dataclass is set to that is a key of a table: see `Field`.

    The attribute has the type of `kind`, which a type checker compares. It is `value` where the key is not written or
    is malformed. `name` is the key where it is no name of Python's.
    """
    return field(default=value, metadata={"key": Field(name, kind, doc, default, example, required)})


_KEYS: dict[tuple[type[Any], bool], tuple[tuple[str, Field], ...]] = {}


def fields_of(table: type[Any], *, partial: bool = False) -> tuple[Field, ...]:
    """Return the keys of a dataclass in order; of a `partial` one none is required. Other attributes are left out."""
    return tuple(entry for _, entry in _keys_of(table, partial=partial))


def _keys_of(table: type[Any], *, partial: bool) -> tuple[tuple[str, Field], ...]:
    """Return the attributes of a dataclass that are keys, each with its field."""
    if (table, partial) not in _KEYS:
        found: list[tuple[str, Field]] = []
        for attribute in dataclasses.fields(table):
            entry: Field | None = attribute.metadata.get("key")
            if entry is not None:
                required = entry.required and not partial
                found.append((attribute.name, replace(entry, name=entry.name or attribute.name, required=required)))
        _KEYS[table, partial] = tuple(found)
    return _KEYS[table, partial]


def read_as(
    table: type[T], value: object, cursor: Cursor, *, what: str, label: str = "this table", partial: bool = False
) -> T:
    """Read a table by the keys of a dataclass: `read_table`, and what was well-formed as its attributes."""
    keys = _keys_of(table, partial=partial)
    read = read_table(value, cursor, [entry for _, entry in keys], what=what, label=label)
    return table(**{attribute: read[entry.name] for attribute, entry in keys if entry.name in read})


def table_of(table: type[T], *, what: str, label: str) -> Kind[T]:
    """Return the kind of tables whose keys are a dataclass's."""

    def read(value: object, cursor: Cursor) -> T | None:
        before = len(cursor.findings)
        result = read_as(table, value, cursor, what=what, label=label)
        return result if len(cursor.findings) == before else None

    return Kind("a table", read, table_schema(fields_of(table)))
