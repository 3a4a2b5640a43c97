"""The tests of policies, found and made ready to run.

Owns which files hold tests, and the lookup of every name that a test gives: its policy, hosts, model and rules. All
that is wrong in all files is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from devpolicy._shipped import shipped_files
from devpolicy._tables import did_you_mean, suggest
from devpolicy._toml import LARGEST_FILE, Document
from devpolicy.api.inputs import own_tree
from devpolicy.errors import Diagnostic, ModelError, PolicyError
from devpolicy.host import Host
from devpolicy.language.cases import Expected, PolicyTest, Word
from devpolicy.language.layers import addresses, source
from devpolicy.language.policy import Policy
from devpolicy.language.suite import holds_tests, is_suite, read_suite
from devpolicy.model import ModelTree
from devpolicy.models import model_catalogue
from devpolicy.review.hosts import Variant, find_hosts, varied
from devpolicy.review.outcome import components_of, variants_of

DECIDERS = ("prefer", "overflow")
"""What decides where a module is when no rule does."""
_SKIPPED = {"__pycache__", "node_modules", ".git", ".tox", ".venv", "venv"}


@dataclass(frozen=True, slots=True)
class Ready:
    """A test with everything that it names."""

    test: PolicyTest
    policy: Policy
    tree: ModelTree | None
    """The model that the test names; `None` leaves it to the policy's component, or asks for the device alone."""
    variants: tuple[Variant, ...]

    @property
    def component(self) -> str | None:
        """The component that is planned; `None` is the policy's top, or all components that it has."""
        return None if self.test.component is None else self.test.component.text

    @property
    def profile(self) -> str | None:
        """The profile that is asked for, beside those that apply by themselves."""
        return None if self.test.profile is None else self.test.profile.text


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one file."""

    name: str
    """The file as the user named it, or as it was found."""
    policy: str
    """The policy's own file or name."""
    tests: tuple[Ready, ...]


def gather(names: Iterable[str | os.PathLike[str]], *, beside: bool = True) -> list[Suite]:
    """Return the tests of files, folders and shipped policies, in order, each file once.

    A folder gives every TOML file inside that holds tests; with `beside`, a policy also gives the tests of
    `NAME.test.toml` beside it.
    Raises `PolicyError` with everything that is wrong in any of them.
    """
    findings: list[Diagnostic] = []
    library = _Library()
    suites: list[Suite] = []
    for file in dict.fromkeys(file for name in names for file in _sources(name, beside)):
        try:
            suites.append(_suite(file, library))
        except PolicyError as broken:
            findings += broken.diagnostics
    if findings:
        raise PolicyError(dict.fromkeys(findings))
    return suites


def ready(policy: Policy, name: str) -> Suite:
    """Return the tests of a policy that is already read. Raises `PolicyError` for names that nothing has."""
    return _made_ready(name, name, policy, dict(policy.hosts), policy.tests, None, _Library())


def problems(name: str, policy: Policy | None = None) -> list[Diagnostic] | None:
    """Return what is wrong with the tests of a file: names that nothing has.

    Without a policy the file must be one of tests, and is read as such; `None` for any other.
    """
    path = Path(name)
    try:
        if policy is not None:
            folder = path.parent if path.is_file() else None
            _made_ready(name, name, policy, dict(policy.hosts), policy.tests, folder, _Library())
            return []
        if name in shipped_files("policy") or not path.is_file() or not is_suite(Document.open(path, PolicyError)):
            return None
        _suite(name, _Library())
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


def _sources(name: str | os.PathLike[str], with_beside: bool) -> Iterator[str]:
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


class _Library:
    """The models that the tests of one run name, each read once."""

    def __init__(self) -> None:
        self._trees: dict[str, ModelTree] = {}

    def model(self, name: str, folder: Path | None) -> ModelTree:
        """Return a model of the catalogue, or one by its path from a folder. Raises `ModelError`."""
        if name not in model_catalogue() and folder is not None and (folder / name).exists():
            name = str(folder / name)
        if name not in self._trees:
            self._trees[name] = ModelTree.load(name)
        return self._trees[name]


def _suite(name: str, library: _Library) -> Suite:
    path = Path(name)
    if name not in shipped_files("policy") and path.is_file():
        document = Document.open(path, PolicyError)
        if is_suite(document):
            read = read_suite(document)
            policy = _policy_of(read.policy, path.parent)
            hosts = {**dict(policy.hosts), **dict(read.hosts)}
            return _made_ready(name, policy.source, policy, hosts, read.tests, path.parent, library)
    policy = Policy.load(name)
    return _made_ready(name, policy.source, policy, dict(policy.hosts), policy.tests, path.parent, library)


def _policy_of(word: Word, folder: Path) -> Policy:
    beside = folder / word.text
    try:
        return Policy.load(str(beside) if beside.is_file() else word.text)
    except PolicyError as broken:
        first, *rest = broken.diagnostics
        raise PolicyError([first if first.place else replace(first, place=word.place), *rest]) from None


def _made_ready(
    name: str,
    source: str,
    policy: Policy,
    hosts: dict[str, Host],
    tests: Iterable[PolicyTest],
    folder: Path | None,
    library: _Library,
) -> Suite:
    findings: list[Diagnostic] = []
    made = [_ready(test, policy, hosts, folder, library, findings) for test in tests]
    if findings:
        raise PolicyError(findings)
    return Suite(name, source, tuple(made))


def _ready(
    test: PolicyTest,
    policy: Policy,
    hosts: dict[str, Host],
    folder: Path | None,
    library: _Library,
    findings: list[Diagnostic],
) -> Ready:
    variants = varied(find_hosts(test.hosts, hosts, folder, findings), test.vary, findings)
    tree = None if test.model is None else _model(test.model, folder, library, findings)
    _check_profile(test, policy, findings)
    name = _component(test, policy, findings)
    shown = tree or _own_model(policy, name, findings)
    for expected in test.expect:
        if expected.module is not None and shown is None:
            message = f'[[test]] "{test.name}" speaks of modules, and names no model'
            hint = 'add `model`, or expect a device alone: `expect = "cuda:0"`'
            findings.append(Diagnostic("DP105", message, expected.place, "modules of what?", help=hint))
            break
        if shown is not None:
            _check_module(expected, shown, findings)
        _check_rule(expected, policy, name, findings)
    return Ready(test, policy, tree, tuple(variants))


def _check_profile(test: PolicyTest, policy: Policy, findings: list[Diagnostic]) -> None:
    names = [one.name for one in policy.profiles]
    if test.profile is not None and test.profile.text not in names:
        message = f"the policy has no profile `{test.profile.text}`"
        help_ = did_you_mean(test.profile.text, names) if names else "leave `profile` out"
        findings.append(Diagnostic("DP202", message, test.profile.place, "no such profile", help=help_))


def _component(test: PolicyTest, policy: Policy, findings: list[Diagnostic]) -> str | None:
    """Return the component of a test. Collects DP202 for one that the policy has not, DP105 where one is needed."""
    names = [entry.name for entry in policy.components]
    if test.component is None:
        if test.expect and components_of(policy) and test.model is None:
            message = f'[[test]] "{test.name}" expects something of one of several components'
            hint = f"add `component`: {did_you_mean('', names)}"
            findings.append(Diagnostic("DP105", message, test.place, "of which?", help=hint))
        return None
    name = test.component.text
    if not any(addresses(entry, name) for entry in policy.components):
        message = f"the policy has no component `{name}`"
        help_ = did_you_mean(name, names) if names else "leave `component` out"
        findings.append(Diagnostic("DP202", message, test.component.place, "no such component", help=help_))
        return None
    return name


def _own_model(policy: Policy, component: str | None, findings: list[Diagnostic]) -> ModelTree | None:
    """Return the model that the policy names for a component, `None` where it names none."""
    entry = None if component is None else source(policy, component)
    try:
        return None if entry is None else own_tree(entry)
    except ModelError as broken:
        findings += broken.diagnostics
        return None


def _model(word: Word, folder: Path | None, library: _Library, findings: list[Diagnostic]) -> ModelTree | None:
    try:
        return library.model(word.text, folder)
    except ModelError as broken:
        first, *rest = broken.diagnostics or (Diagnostic("DP202", str(broken)),)
        findings += [first if first.place else replace(first, place=word.place), *rest]
        return None


def modules_of(expected: Expected, tree: ModelTree) -> list[str]:
    """Return the paths of the modules that an expectation names, in order; the root's for the whole model."""
    if expected.module is None:
        return [""]
    if expected.module.literal:
        return [expected.module.text] if expected.module.text in tree.index else []
    return [module.path for module in tree.modules if expected.module.matches(module.path)]


def _check_module(expected: Expected, tree: ModelTree, findings: list[Diagnostic]) -> None:
    if modules_of(expected, tree) or expected.module is None:
        return
    path = expected.module.text
    near = suggest(path, [module.path for module in tree.modules if module.path])
    hint = f"`devpolicy model show {tree.name}` lists its modules"
    hint = f"did you mean `{near}`?\n{hint}" if near else hint
    message = f"`{tree.name}` has no module `{path}`"
    if path in set(tree.tensor_names()):
        message, hint = f"`{path}` is a tensor, and plans place modules", f"write `{path.rpartition('.')[0]}`"
    findings.append(Diagnostic("DP202", message, expected.place, "of no such module", help=hint))


def _check_rule(expected: Expected, policy: Policy, component: str | None, findings: list[Diagnostic]) -> None:
    said = [one if component is None else one.for_component(component) for one in variants_of(policy)]
    known = [*dict.fromkeys(rule.name for one in said for rule in (*policy.rules, *one.rules)), *DECIDERS]
    if expected.rule is not None and expected.rule not in known:
        message = f"the policy has no rule `{expected.rule}`"
        help_ = did_you_mean(expected.rule, known)
        findings.append(Diagnostic("DP202", message, expected.place, "no such rule", help=help_))


def selected(suites: Iterable[Suite], wanted: str | None) -> list[Suite]:
    """Return the suites with those tests whose names hold `wanted`, or match it where it is a glob."""
    if not wanted:
        return list(suites)
    glob = any(sign in wanted for sign in "*?[")

    def is_wanted(name: str) -> bool:
        return fnmatchcase(name.lower(), wanted.lower()) if glob else wanted.lower() in name.lower()

    return [replace(one, tests=tuple(entry for entry in one.tests if is_wanted(entry.test.name))) for one in suites]
