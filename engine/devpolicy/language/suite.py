"""Files of tests: `policy = "…"` at the top, and below it hosts and tests.

Owns that form, and how a file with tests is recognised among other TOML before it is parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._tables import Cursor, Field, Kind, integer, read_table
from devpolicy.errors import PolicyError
from devpolicy.language.expectations import WORD
from devpolicy.language.tests import read_hosts, read_tests

if TYPE_CHECKING:
    from devpolicy._toml import Document
    from devpolicy.host import Host
    from devpolicy.language.cases import PolicyTest, Word

_ANY: Kind[Any] = Kind("tables", lambda value, cursor: value)
SUITE = (
    Field("schema", integer(1, 1), "The version of the language.", default="`1`"),
    Field("policy", WORD, "The policy that is tested: a path from this file, or a shipped policy.", required=True),
    Field("host", _ANY, "Simulated hosts, `[host.NAME]`."),
    Field("test", _ANY, "The tests, `[[test]]`.", required=True, example="add `[[test]]`"),
)

_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_TEST = re.compile(r"^[ \t]*\[\[[ \t]*(?:test|'test'|\"test\")[ \t]*\]\]", re.MULTILINE)
_OURS_AT_THE_TOP = re.compile(r"^[ \t]*(?:prefer|policy|extends|overflow|offload)[ \t]*[=.]", re.MULTILINE)
_OUR_HOSTS = re.compile(r"^[ \t]*hosts?[ \t]*=", re.MULTILINE)
_OUR_EXPECTATIONS = re.compile(r"^[ \t]*(?:expect|expect_error|always)[ \t]*[=.]", re.MULTILINE)
_OUR_TABLES = re.compile(r"^[ \t]*\[(?:component|profile|devices|offload)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """A file of tests: the policy's name as written, its own hosts, and the tests."""

    policy: Word
    hosts: tuple[tuple[str, Host], ...]
    tests: tuple[PolicyTest, ...]


def holds_tests(text: str) -> bool:
    """Whether TOML text is a policy with tests or a file of tests. Broken text may be one: then reading says why.

    `[[test]]` alone does not say so: Cargo has it too. A misspelt `prefer` must not hide the tests below it, so they
    say so themselves.
    """
    test = _TEST.search(text)
    if test is None:
        return False
    if _OUR_HOSTS.search(text, test.end()) and _OUR_EXPECTATIONS.search(text, test.end()):
        return True
    first = _HEADER.search(text)
    top = text[: first.start()] if first else text
    return _OURS_AT_THE_TOP.search(top) is not None or _OUR_TABLES.search(text) is not None


def is_suite(document: Document) -> bool:
    """Whether a document is a file of tests, and not a policy."""
    return "policy" in document.data


def read_suite(document: Document) -> SuiteFile:
    """Read a file of tests. Raises `PolicyError` with every finding."""
    cursor = Cursor(document, (), [])
    data = document.data
    keys = read_table(data, cursor, SUITE, what="a file of tests", label="a key of a file of tests")
    hosts = read_hosts(data.get("host", {}), cursor.at("host"))
    tests = read_tests(data.get("test", []), cursor.at("test"))
    if cursor.findings:
        findings = sorted(cursor.findings, key=lambda one: (one.place.line, one.place.column) if one.place else (0, 0))
        raise PolicyError(findings)
    return SuiteFile(keys["policy"], hosts, tests)
