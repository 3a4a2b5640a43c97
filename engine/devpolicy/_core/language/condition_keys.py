"""The keys of a condition: `[require]`, and `when` in rules and profiles.

Owns their field table and their reading. What a condition means on a host is `conditions`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.host import ACCELERATOR_TYPES, ARCHITECTURES, SOFTWARE, SYSTEMS, normal_name
from devpolicy._core.language.comparisons import COUNT_TEST, LEAST_SIZE, VERSION_TEST, CountTest, SizeTest, VersionTest
from devpolicy._core.language.conditions import (
    AmountTest,
    Condition,
    DevicesTest,
    Requirement,
    SoftwareTest,
    Test,
    VariableTest,
    WordTest,
)
from devpolicy._core.language.devices import DeviceClass, DeviceTests
from devpolicy._core.toml.tables import (
    Field,
    JsonSchema,
    Kind,
    did_you_mean,
    fields_of,
    key,
    list_of,
    read_as,
    read_table,
    table_schema,
    wrong_type,
)

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor


@dataclass(frozen=True)
class _Counted:
    count: CountTest | None = key(COUNT_TEST, "How many of them the host has.", default="at least one")


@dataclass(frozen=True)
class DevicesTable(DeviceTests, _Counted):
    """The keys of a condition on devices of one type."""


DEVICES_SCHEMA: JsonSchema = {"anyOf": [*COUNT_TEST.schema["anyOf"], table_schema(fields_of(DevicesTable))]}


def _devices(type_: str) -> Kind[DevicesTest]:
    def read(value: object, cursor: Cursor) -> DevicesTest | None:
        if not isinstance(value, dict):
            count = COUNT_TEST.read(value, cursor)
            return None if count is None else DevicesTest(DeviceClass(type_, type_), count)
        before = len(cursor.findings)
        keys = read_as(DevicesTable, value, cursor, what=f"`{type_}`", label="a key of a condition on devices")
        if len(cursor.findings) > before:
            return None
        return DevicesTest(keys.as_class(type_, type_, cursor), keys.count or CountTest(">=", 1))

    return Kind("a number (at least), or a table", read, DEVICES_SCHEMA)


def _word(*known: str) -> Kind[str]:
    def read(value: object, cursor: Cursor) -> str | None:
        if not isinstance(value, str):
            wrong_type(value, cursor, "a string, or a list of them")
            return None
        if normal_name(value) in known:
            return normal_name(value)
        asked = next(part for part in reversed(cursor.path) if isinstance(part, str))
        hint = did_you_mean(normal_name(value), known)
        cursor.error("DP104", f"`{value}` is no value of `{asked}`", label="not one of them", help=hint)
        return None

    return Kind(" or ".join(f'`"{name}"`' for name in known), read, {"enum": list(known)})


_OF = {"python": "Python", "driver": "NVIDIA's driver", "macos": "macOS"}
_SYSTEMS, _ARCHITECTURES = (list_of(_word(*known), or_one=True, least=1) for known in (SYSTEMS, ARCHITECTURES))
CONDITION = (
    *(Field(type_, _devices(type_), f"Devices of type `{type_}`.") for type_ in ACCELERATOR_TYPES),
    Field("os", _SYSTEMS, "The operating system, or a list of them."),
    Field("arch", _ARCHITECTURES, "The processor's architecture, or a list of them."),
    Field("memory", LEAST_SIZE, "RAM, in total."),
    Field("free", LEAST_SIZE, "RAM that is available."),
    Field("disk", LEAST_SIZE, "The disk for offloaded weights, in total."),
    Field("disk_free", LEAST_SIZE, "The free space on it."),
    *(Field(name, VERSION_TEST, f"The version of {_OF.get(name, f'`{name}`')}.") for name in SOFTWARE),
)
"""Every key of a condition, but `env`."""


def condition(what: str, *, environment: bool = False) -> Kind[Condition]:
    """Return the kind of conditions that messages call `what`; with `environment`, `env.NAME` is a key too."""
    fields = (*CONDITION, ENV) if environment else CONDITION

    def read(value: object, cursor: Cursor) -> Condition | None:
        before = len(cursor.findings)
        keys = read_table(value, cursor, fields, what=what, label="a key of a condition")
        if len(cursor.findings) > before:
            return None
        if not keys:
            hint = 'such as `cuda = 2`, `os = "linux"` or `torch = ">=2.6"`'
            cursor.error("DP106", f"{what} asks nothing", label="always holds", help=hint)
            return None
        variables = tuple(sorted(keys.pop(ENV.name, {}).items()))
        requirements = tuple(
            Requirement(name, _test(test), cursor.document.place((*cursor.path, name), "key"))
            for name, test in keys.items()
        )
        return Condition(requirements, variables, what, cursor.document.place(cursor.path, "key"))

    return Kind("a table of conditions", read, {**table_schema(fields), "minProperties": 1})


def _test(value: Any) -> Test:
    if isinstance(value, SizeTest):
        return AmountTest(value)
    if isinstance(value, VersionTest):
        return SoftwareTest(value)
    if isinstance(value, tuple):
        return WordTest(value)
    devices: DevicesTest = value
    return devices


def _read_environment(value: object, cursor: Cursor) -> dict[str, VariableTest] | None:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", "write `env.CI = true`")
        return None
    read = {name: _read_variable(entry, cursor.at(name)) for name, entry in value.items()}
    return {name: test for name, test in read.items() if test is not None}


def _read_variable(value: object, cursor: Cursor) -> VariableTest | None:
    if isinstance(value, bool):
        return VariableTest(value)
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]
    if not texts or len(texts) < (len(value) if isinstance(value, list) else 1):
        hint = "`true`: it is set; `false`: it is not; or the text that it is, in quotes"
        wrong_type(value, cursor, "text that is not empty, a list of it, or a boolean", hint)
        return None
    return VariableTest(tuple(texts))


_TEXT: JsonSchema = {"type": "string", "minLength": 1}
ENV = Field(
    "env",
    Kind(
        "a table: `env.NAME` = text, a list of it, or whether it is set",
        _read_environment,
        {
            "type": "object",
            "additionalProperties": {
                "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}, {"type": "boolean"}]
            },
        },
    ),
    "Variables of the environment. Read by the commands and by `use_policy`, never by `plan`.",
)
