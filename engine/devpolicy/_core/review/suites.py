"""The tests of policies, found and bound to what they name.

Owns which files hold tests, and which policy each of them is about. `bind_test` looks names up; the findings
of all files are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from devpolicy._core.errors import Diagnostic, PolicyError, findings_at
from devpolicy._core.files import LARGEST_FILE, kind_of, list_folder, read_file
from devpolicy._core.host import Host
from devpolicy._core.language.expectations import Word
from devpolicy._core.language.extending import KEYS
from devpolicy._core.language.policy import Overrides, Policy
from devpolicy._core.language.read import load
from devpolicy._core.language.suite import holds_tests, is_suite, read_suite
from devpolicy._core.language.tests import PolicyTest
from devpolicy._core.names import beside, shipped_names
from devpolicy._core.review.bind_test import BoundTest, Library, bind_test
from devpolicy._core.toml.document import Document

NOTHING = Overrides()
_SKIPPED = {"__pycache__", "node_modules", ".git", ".tox", ".venv", "venv"}


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one file."""

    name: str
    """The file as the user named it, or as it was found."""
    policy: str
    """The policy's own file or name."""
    tests: tuple[BoundTest, ...]


def gather(names: Iterable[str | os.PathLike[str]], *, beside: bool = True, asked: Overrides = NOTHING) -> list[Suite]:
    """Return the tests of files, folders and shipped policies, in order, each file once.

    A folder gives every TOML file inside that holds tests; with `beside`, a policy also gives the tests of
    `NAME.test.toml` beside it. `asked` is asked of each policy; a test's own profile goes before that one.
    Raises `PolicyError` with everything that is wrong in any of them.
    """
    findings: list[Diagnostic] = []
    library = Library()
    suites: list[Suite] = []
    files: dict[Path, str] = {}
    for name in names:
        for file in _sources(name, findings, with_beside=beside):
            files.setdefault(Path(file).absolute(), file)  # `p.toml` and `./p.toml` are one file
    for file in files.values():
        try:
            suites.append(_suite(file, library, asked))
        except PolicyError as broken:
            findings += broken.diagnostics
    if findings:
        raise PolicyError(dict.fromkeys(findings))
    return suites


def bind_policy(policy: Policy, name: str) -> Suite:
    """Return the tests of a policy that is already read. Raises `PolicyError` for names that nothing has."""
    return _bind_tests(name, name, policy, dict(policy.hosts), policy.tests, None, Library())


def problems(name: str, policy: Policy | None = None) -> list[Diagnostic] | None:
    """Return the findings of a file's tests: names that do not exist.

    Without a policy the file must be one of tests, and is read as such; `None` for any other.
    """
    path = Path(name)
    try:
        if policy is not None:
            folder = path.parent if kind_of(path, PolicyError) == "file" else None
            _bind_tests(name, name, policy, dict(policy.hosts), policy.tests, folder, Library())
            return []
        if name in shipped_names("policy") or kind_of(path, PolicyError) != "file" or not is_suite(_open(path)):
            return None
        _suite(name, Library())
    except PolicyError as broken:
        return None if policy is None and broken.code == "DP101" else list(broken.diagnostics)
    return []


def in_folder(folder: Path, findings: list[Diagnostic]) -> list[Path]:
    """Return the TOML files below a folder that hold tests, sorted. Links to folders are not followed.

    Collects what cannot be read, be it a folder or a file: tests in there would not have run.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            names = list_folder(here, PolicyError)
        except PolicyError as broken:
            findings += broken.diagnostics
            continue
        for path in (here / name for name in names):
            try:
                if path.suffix == ".toml":
                    if kind_of(path, PolicyError) != "folder" and _file_holds_tests(path):
                        found.append(path)
                elif path.name not in _SKIPPED and kind_of(path, PolicyError) == "folder" and not path.is_symlink():
                    waiting.append(path)
            except PolicyError as broken:
                findings += broken.diagnostics
    return sorted(found)


def _file_holds_tests(path: Path) -> bool:
    content = read_file(path, PolicyError, most=LARGEST_FILE)
    if len(content) > LARGEST_FILE:
        raise PolicyError(Diagnostic("DP101", f"`{path}` is larger than {LARGEST_FILE >> 20} MiB"))
    return holds_tests(content.decode("utf-8", "replace"))


def _open(path: Path) -> Document:
    return Document.open(path, PolicyError)


def _sources(name: str | os.PathLike[str], findings: list[Diagnostic], *, with_beside: bool) -> Iterator[str]:
    """Yield the files that a name refers to. Collects findings for what cannot be read."""
    text = os.fspath(name)
    path = Path(text)
    if text in shipped_names("policy") and isinstance(name, str):
        yield text
        return
    try:
        if kind_of(path, PolicyError) == "folder":
            yield from map(str, in_folder(path, findings))
            return
        yield text
        beside = path.with_name(f"{path.stem}.test.toml")
        if with_beside and not path.name.endswith(".test.toml") and kind_of(beside, PolicyError) is not None:
            yield str(beside)
    except PolicyError as broken:
        findings += broken.diagnostics


def _suite(name: str, library: Library, asked: Overrides = NOTHING) -> Suite:
    path = Path(name)
    if name not in shipped_names("policy") and kind_of(path, PolicyError) is not None:
        document = _open(path)
        if is_suite(document):
            read = read_suite(document, lambda word: _policy_of(word, path.parent, asked))
            hosts = {**dict(read.policy.hosts), **dict(read.hosts)}
            return _bind_tests(name, read.policy.source, read.policy, hosts, read.tests, path.parent, library)
    policy = Policy.load(name).with_overrides(profile=asked.profile, values=asked.values)
    return _bind_tests(name, policy.source, policy, dict(policy.hosts), policy.tests, path.parent, library)


def _policy_of(word: Word, folder: Path, asked: Overrides) -> Policy:
    try:
        policy = load(beside("policy", word.text, folder, PolicyError), keys=KEYS)
    except PolicyError as broken:
        raise PolicyError(findings_at(broken, word.place)) from None
    return policy.with_overrides(profile=asked.profile, values=asked.values)


def _bind_tests(
    name: str,
    source: str,
    policy: Policy,
    hosts: dict[str, Host],
    tests: Iterable[PolicyTest],
    folder: Path | None,
    library: Library,
) -> Suite:
    findings: list[Diagnostic] = []
    made = [bind_test(test, policy, hosts, folder, library, findings) for test in tests]
    if findings:
        raise PolicyError(findings)
    return Suite(name, source, tuple(made))


def selected(suites: Iterable[Suite], wanted: str | None) -> list[Suite]:
    """Return the suites with those tests whose names hold `wanted`, or match it where it is a glob."""
    if not wanted:
        return list(suites)
    glob = any(sign in wanted for sign in "*?[")

    def is_wanted(name: str) -> bool:
        return fnmatchcase(name.lower(), wanted.lower()) if glob else wanted.lower() in name.lower()

    return [replace(one, tests=tuple(entry for entry in one.tests if is_wanted(entry.test.name))) for one in suites]
