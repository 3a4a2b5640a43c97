"""Conditions on a host: `[require]`, and `when` in rules and profiles. One grammar.

Owns the values, their reading, and what a host lacks of them, each with what it has instead. All entries of a
condition must hold. Nothing is asked but the host that is handed in; the environment is handed in too, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from devpolicy._tables import Field, JsonSchema, Kind, did_you_mean, list_of, read_table, table_schema, wrong_type
from devpolicy.errors import Diagnostic, Unsatisfiable
from devpolicy.host import ACCELERATOR_TYPES, ARCHITECTURES, SOFTWARE, SYSTEMS, normal_name
from devpolicy.language.comparisons import COUNT_TEST, LEAST_SIZE, VERSION_TEST, CountTest, SizeTest, VersionTest
from devpolicy.language.devices import TESTS, DeviceClass, alike, device_class
from devpolicy.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._tables import Cursor
    from devpolicy.errors import Place
    from devpolicy.host import Host

Environment = Mapping[str, str]


class Test(Protocol):
    """What one key of a condition asks."""

    def lacks(self, key: str, host: Host) -> str:
        """Return what `host` has instead, empty where it has what is asked."""
        ...

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        ...


@dataclass(frozen=True, slots=True)
class DevicesTest:
    """So many accelerators of one type that pass the tests; faulty ones do not count."""

    kind: DeviceClass
    count: CountTest

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        number = {">=": "at least {}", "==": "{}"}.get(self.count.operator, f"{self.count.operator} {{}}")
        number = "no" if self.count == CountTest("==", 0) else number.format(self.count.value)
        same = f" of the same {' and '.join(self.kind.same)}" if self.kind.same else ""
        tests = f" with {self.kind.tests}" if self.kind.tests else ""
        return f"{number} `{key}` device{'' if number.endswith(' 1') else 's'}{tests}{same}"

    def lacks(self, key: str, host: Host) -> str:
        """Return what `host` has instead, empty where it has what is asked."""
        working = [] if host.fault(key) else [one for one in host.devices(key) if one.fault is None]
        fitting = [one for one in working if not self.kind.unlike(one)]
        if self.kind.same:
            fitting = alike(fitting, self.kind.same, self.count.value)
        if self.count.holds(len(fitting)):
            return ""
        if host.fault(key):
            return f"none, because the `{key}` driver failed: {host.fault(key)}"
        if not host.devices(key):
            return "none"
        others = [
            f"`{key}:{one.id}`: {why}" for one in host.devices(key) if (why := one.fault or self.kind.unlike(one))
        ]
        return str(len(fitting) or "none") + (f" ({', '.join(others)})" if others else "")


@dataclass(frozen=True, slots=True)
class AmountTest:
    """An amount of RAM or of the disk."""

    size: SizeTest

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        return f"`{key}` {self.size}"

    def lacks(self, key: str, host: Host) -> str:
        """Return what `host` has instead, empty where it has what is asked."""
        amount: int = getattr(host, key)
        return "" if self.size.holds(amount) else format_size(amount)


@dataclass(frozen=True, slots=True)
class WordTest:
    """One of several words: the system, or the architecture."""

    words: tuple[str, ...]

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        return f"`{key}` {' or '.join(self.words)}"

    def lacks(self, key: str, host: Host) -> str:
        """Return what `host` has instead, empty where it has what is asked."""
        word: str = getattr(host, key)
        return "" if word in self.words else word


@dataclass(frozen=True, slots=True)
class SoftwareTest:
    """A version of software."""

    version: VersionTest

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        return f"`{key}` {self.version}"

    def lacks(self, key: str, host: Host) -> str:
        """Return what `host` has instead, empty where it has what is asked."""
        version = host.version(key)
        if version is None:
            return f"no `{key}`"
        return "" if self.version.holds(version) else version


@dataclass(frozen=True, slots=True)
class VariableTest:
    """An environment variable that is one of several texts, or that is set (not empty) or not."""

    values: tuple[str, ...] | bool

    def lacks(self, key: str, environment: Environment) -> str:
        """Return what `environment` has instead, empty where it has what is asked."""
        value = environment.get(key, "")
        holds = bool(value) is self.values if isinstance(self.values, bool) else value in self.values
        return "" if holds else f"`{value}`" if value else "nothing"

    def needs(self, key: str) -> str:
        """Return what is asked, as text."""
        if isinstance(self.values, bool):
            return f"`env.{key}` {'set' if self.values else 'not set'}"
        return f"`env.{key}` {' or '.join(f'`{value}`' for value in self.values)}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One key of a condition."""

    key: str
    test: Test
    place: Place | None = field(default=None, compare=False)


class Unmet(NamedTuple):
    """One key that does not hold: what it needs, what there is instead, and where it is written."""

    key: str
    needs: str
    has: str
    place: Place | None


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a host, all of it; `what` is how messages call the table."""

    requirements: tuple[Requirement, ...] = ()
    variables: tuple[tuple[str, VariableTest], ...] = ()
    what: str = field(default="`when`", compare=False)
    place: Place | None = field(default=None, compare=False)

    def unmet(self, host: Host, environment: Environment | None = None) -> list[Unmet]:
        """Return all that does not hold. Variables are looked up in `environment`, and ignored without one."""
        found = [
            Unmet(one.key, one.test.needs(one.key), has, one.place)
            for one in self.requirements
            if (has := one.test.lacks(one.key, host))
        ]
        for name, test in self.variables if environment is not None else ():
            has = test.lacks(name, environment or {})
            if has:
                found.append(Unmet(f"env.{name}", test.needs(name), has, self.place))
        return found


def check_requirements(conditions: Iterable[Condition | None], host: Host) -> None:
    """Raise `Unsatisfiable` with a DP304 for each key that `host` does not meet, of all conditions together."""
    findings = [
        Diagnostic(
            "DP304",
            f"this host does not meet `{unmet.key}` in {condition.what}",
            unmet.place,
            f"needs {unmet.needs}".replace("`", ""),
            notes=(f"the host has {unmet.has}",),
        )
        for condition in conditions
        if condition is not None
        for unmet in condition.unmet(host)
    ]
    findings.sort(key=lambda finding: (finding.place.line, finding.place.column) if finding.place else (0, 0))
    if findings:
        raise Unsatisfiable(findings)


# Reading.

_DEVICES = (Field("count", COUNT_TEST, "How many of them the host has.", "at least one"), *TESTS)


def _devices(type_: str) -> Kind[DevicesTest]:
    def read(value: object, cursor: Cursor) -> DevicesTest | None:
        if not isinstance(value, dict):
            count = COUNT_TEST.read(value, cursor)
            return None if count is None else DevicesTest(DeviceClass(type_, type_), count)
        before = len(cursor.findings)
        keys = read_table(value, cursor, _DEVICES, what=f"`{type_}`", label="a key of a condition on devices")
        if len(cursor.findings) > before:
            return None
        return DevicesTest(device_class(type_, type_, keys, cursor), keys.get("count", CountTest(">=", 1)))

    schema: JsonSchema = {"anyOf": [*COUNT_TEST.schema["anyOf"], table_schema(_DEVICES)]}
    return Kind("a number (at least), or a table", read, schema)


def _word(*known: str) -> Kind[str]:
    def read(value: object, cursor: Cursor) -> str | None:
        if not isinstance(value, str):
            wrong_type(value, cursor, "a string, or a list of them")
            return None
        if normal_name(value) in known:
            return normal_name(value)
        key = next(part for part in reversed(cursor.path) if isinstance(part, str))
        hint = did_you_mean(normal_name(value), known)
        cursor.error("DP104", f"`{value}` is no value of `{key}`", label="not one of them", help=hint)
        return None

    return Kind(" or ".join(f'`"{name}"`' for name in known), read, {"enum": list(known)})


_OF = {"python": "Python", "driver": "NVIDIA's driver", "macos": "macOS"}
_SYSTEMS, _ARCHITECTURES = (list_of(_word(*known), or_one=True, least=1) for known in (SYSTEMS, ARCHITECTURES))
CONDITION = (
    *(Field(type_, _devices(type_), f"Devices of type `{type_}`.") for type_ in ACCELERATOR_TYPES),
    Field("os", _SYSTEMS, "The operating system: any of them."),
    Field("arch", _ARCHITECTURES, "The processor's architecture: any of them."),
    Field("memory", LEAST_SIZE, "RAM, in total."),
    Field("free", LEAST_SIZE, "RAM that is available."),
    Field("disk", LEAST_SIZE, "The disk for offloaded weights, in total."),
    Field("disk_free", LEAST_SIZE, "What is free on it."),
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
        variables = tuple(sorted(keys.pop("env", {}).items()))
        requirements = tuple(
            Requirement(key, _test(test), cursor.document.place((*cursor.path, key), "key"))
            for key, test in keys.items()
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
