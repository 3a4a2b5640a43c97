"""The tests of policies, found and made ready to run.

Owns which files hold tests, and which policy each of them is about. What a test names is looked up by `ready`; all that
is wrong in all files is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from devpolicy._core.errors import Diagnostic, PolicyError, findings_at
from devpolicy._core.host import Host
from devpolicy._core.language.cases import PolicyTest, Word
from devpolicy._core.language.policy import Asked, Policy
from devpolicy._core.language.suite import holds_tests, is_suite, read_suite
from devpolicy._core.review.ready import Library, Ready, made_ready
from devpolicy._core.shipped import shipped_files
from devpolicy._core.toml.document import LARGEST_FILE, Document

NOTHING = Asked()
_SKIPPED = {"__pycache__", "node_modules", ".git", ".tox", ".venv", "venv"}


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one file."""

    name: str
    """The file as the user named it, or as it was found."""
    policy: str
    """The policy's own file or name."""
    tests: tuple[Ready, ...]


def gather(names: Iterable[str | os.PathLike[str]], *, beside: bool = True, asked: Asked = NOTHING) -> list[Suite]:
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
        for file in _sources(name, with_beside=beside):
            files.setdefault(Path(file).absolute(), file)  # `p.toml` and `./p.toml` are one file
    for file in files.values():
        try:
            suites.append(_suite(file, library, asked))
        except PolicyError as broken:
            findings += broken.diagnostics
    if findings:
        raise PolicyError(dict.fromkeys(findings))
    return suites


def ready(policy: Policy, name: str) -> Suite:
    """Return the tests of a policy that is already read. Raises `PolicyError` for names that nothing has."""
    return _made_ready(name, name, policy, dict(policy.hosts), policy.tests, None, Library())


def problems(name: str, policy: Policy | None = None) -> list[Diagnostic] | None:
    """Return what is wrong with the tests of a file: names that nothing has.

    Without a policy the file must be one of tests, and is read as such; `None` for any other.
    """
    path = Path(name)
    try:
        if policy is not None:
            folder = path.parent if path.is_file() else None
            _made_ready(name, name, policy, dict(policy.hosts), policy.tests, folder, Library())
            return []
        if name in shipped_files("policy") or not path.is_file() or not is_suite(Document.open(path, PolicyError)):
            return None
        _suite(name, Library())
    except PolicyError as broken:
        return None if policy is None and broken.code == "DP101" else list(broken.diagnostics)
    return []


def in_folder(folder: Path) -> Iterator[Path]:
    """Yield the TOML files below a folder that hold tests, sorted."""
    for path in sorted(folder.rglob("*.toml")):
        inside = path.relative_to(folder).parts[:-1]
        if not any(part in _SKIPPED for part in inside) and file_holds_tests(path):
            yield path


def file_holds_tests(path: Path) -> bool:
    """Whether a file is a policy with tests or a file of tests; `False` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError:
        return False
    return len(content) <= LARGEST_FILE and holds_tests(content.decode("utf-8", "replace"))


def _sources(name: str | os.PathLike[str], *, with_beside: bool) -> Iterator[str]:
    text = os.fspath(name)
    path = Path(text)
    if text in shipped_files("policy") and isinstance(name, str):
        yield text
        return
    if path.is_dir():
        yield from map(str, in_folder(path))
        return
    yield text
    beside = path.with_name(f"{path.stem}.test.toml")
    if with_beside and not path.name.endswith(".test.toml") and beside.is_file():
        yield str(beside)


def _suite(name: str, library: Library, asked: Asked = NOTHING) -> Suite:
    path = Path(name)
    if name not in shipped_files("policy") and path.is_file():
        document = Document.open(path, PolicyError)
        if is_suite(document):
            read = read_suite(document, lambda word: _policy_of(word, path.parent, asked))
            hosts = {**dict(read.policy.hosts), **dict(read.hosts)}
            return _made_ready(name, read.policy.source, read.policy, hosts, read.tests, path.parent, library)
    policy = Policy.load(name).asking(asked.profile, asked.overrides)
    return _made_ready(name, policy.source, policy, dict(policy.hosts), policy.tests, path.parent, library)


def _policy_of(word: Word, folder: Path, asked: Asked) -> Policy:
    beside = folder / word.text
    try:
        policy = Policy.load(str(beside) if beside.is_file() else word.text)
    except PolicyError as broken:
        raise PolicyError(findings_at(broken, word.place)) from None
    return policy.asking(asked.profile, asked.overrides)


def _made_ready(
    name: str,
    source: str,
    policy: Policy,
    hosts: dict[str, Host],
    tests: Iterable[PolicyTest],
    folder: Path | None,
    library: Library,
) -> Suite:
    findings: list[Diagnostic] = []
    made = [made_ready(test, policy, hosts, folder, library, findings) for test in tests]
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
