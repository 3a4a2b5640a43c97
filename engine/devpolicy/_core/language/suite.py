"""Files of tests: `policy = "…"` at the top, and below it hosts and tests.

Owns that form, and how a file with tests is recognised among other TOML before it is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devpolicy._core.errors import PolicyError
from devpolicy._core.language.devices import classes_in
from devpolicy._core.language.expectations import WORD, Word
from devpolicy._core.language.tests import read_hosts, read_tests
from devpolicy._core.toml.tables import Cursor, Kind, integer, key, read_as

if TYPE_CHECKING:
    from devpolicy._core.errors import Diagnostic, Place
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.language.tests import PolicyTest
    from devpolicy._core.toml.document import Document

_ANY: Kind[object] = Kind("tables", lambda value, cursor: value)


@dataclass(frozen=True)
class SuiteTable:
    """The keys of a file of tests."""

    schema: int | None = key(integer(1, 1), "The version of the language.", default="`1`")
    policy: Word | None = key(
        WORD, "The policy that is tested: a path from this file, or a shipped policy.", required=True
    )
    host: object = key(_ANY, "Simulated hosts, `[host.NAME]`.")
    test: object = key(_ANY, "The tests, `[[test]]`.", required=True, example="add `[[test]]`")


_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_TEST = re.compile(r"^[ \t]*\[\[[ \t]*(?:test|'test'|\"test\")[ \t]*\]\]", re.MULTILINE)
_INLINE = re.compile(r"^[ \t]*(?:test|'test'|\"test\")[ \t]*=[ \t]*\[", re.MULTILINE)
_OURS_AT_THE_TOP = re.compile(r"^[ \t]*(?:prefer|policy|extends|overflow|offload)[ \t]*[=.]", re.MULTILINE)
_OUR_HOSTS = re.compile(r"(?:^|[{,])[ \t]*hosts?[ \t]*=", re.MULTILINE)
_OUR_EXPECTATIONS = re.compile(r"(?:^|[{,])[ \t]*(?:expect|expect_error|always)[ \t]*[=.]", re.MULTILINE)
_OUR_TABLES = re.compile(r"^[ \t]*\[(?:component|profile|devices|offload)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """A file of tests: the policy that it names, its own hosts, and the tests."""

    policy: Policy
    hosts: tuple[tuple[str, Host], ...]
    tests: tuple[PolicyTest, ...]


def holds_tests(text: str) -> bool:
    """Whether TOML text is a policy with tests or a file of tests. Broken text may be one: then reading it reports why.

    `[[test]]` alone does not say so: Cargo has it too. A misspelt `prefer` must not hide the tests below it, so they
    say so themselves.
    """
    first = _HEADER.search(text)
    top = text[: first.start()] if first else text
    test = _TEST.search(text) or _INLINE.search(top)
    if test is None:
        return False
    if _OUR_HOSTS.search(text, test.end()) and _OUR_EXPECTATIONS.search(text, test.end()):
        return True
    return _OURS_AT_THE_TOP.search(top) is not None or _OUR_TABLES.search(text) is not None


def is_suite(document: Document) -> bool:
    """Whether a document is a file of tests, and not a policy."""
    return "policy" in document.data


def read_suite(document: Document, load: Callable[[Word], Policy]) -> SuiteFile:
    """Read a file of tests; `load` returns the policy that it names, whose classes of devices its tests may name too.

    Raises `PolicyError` with every finding, those of the policy first.
    """
    cursor = Cursor(document, (), [])
    keys = read_as(SuiteTable, document.data, cursor, what="a file of tests", label="a key of a file of tests")
    policy, broken = _loaded(keys.policy, load)
    cursor = replace(cursor, names={} if policy is None else classes_in(policy.layer))
    hosts = () if keys.host is None else read_hosts(keys.host, cursor.at("host"))
    tests = () if keys.test is None else read_tests(keys.test, cursor.at("test"))
    # Without the policy nobody knows which names are its classes'.
    findings = [*broken, *(one for one in cursor.findings if policy is not None or one.code != "DP201")]
    if policy is None or findings:
        findings.sort(key=lambda one: _order(one.place, document.source))
        raise PolicyError(findings)
    return SuiteFile(policy, hosts, tests)


def _order(place: Place | None, source: str) -> tuple[bool, int, int]:
    if place is None or place.source != source:
        return False, 0, 0
    return True, place.line, place.column


def _loaded(named: Word | None, load: Callable[[Word], Policy]) -> tuple[Policy | None, Sequence[Diagnostic]]:
    try:
        return None if named is None else load(named), ()
    except PolicyError as broken:
        return None, broken.diagnostics
