"""Conditions on a host: `[require]`, and `when` in rules and profiles. One grammar.

Owns the values, and what a host lacks of them, each with what it has instead. All entries of a condition must hold.
Nothing is asked but the host that is handed in; the environment is handed in too, or not at all. How conditions are
read is `condition_keys`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.comparisons import CountTest, SizeTest, VersionTest
from devpolicy._core.language.devices import DeviceClass, alike
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.host import Host

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
