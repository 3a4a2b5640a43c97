"""Binding a test: every name in it is looked up.

Owns the lookup of hosts, models, components, profiles, modules and rules, and the findings for unknown names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, ModelError, findings_at
from devpolicy._core.host import Host
from devpolicy._core.language.expectations import Expected, Word
from devpolicy._core.language.layers import addresses, source, stem_of
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.tests import PolicyTest
from devpolicy._core.model.catalogue import load
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.names import beside
from devpolicy._core.review.hosts import Variant, find_fleet, find_hosts, varied
from devpolicy._core.review.outcome import components_of, variants_of
from devpolicy._core.review.pipelines import check_names, read_components
from devpolicy._core.toml.tables import did_you_mean, suggest
from devpolicy._core.verbs.inputs import own_tree

if TYPE_CHECKING:
    from devpolicy._core.targets.haystack_components.names import Saved

DECIDERS = ("prefer", "overflow")
"""What decides where a module is when no rule does."""


@dataclass(frozen=True, slots=True)
class BoundTest:
    """A test with the hosts and the model that it names."""

    test: PolicyTest
    policy: Policy
    tree: ModelTree | None
    """The model that the test names; `None` leaves it to the policy's component, or asks for the device alone."""
    variants: tuple[Variant, ...]
    pipeline: tuple[Saved, ...] | None = None
    """The components of the pipeline that the test names."""

    @property
    def component(self) -> str | None:
        """The component that is planned; `None` is the policy's top, or all components that it has."""
        return None if self.test.component is None else self.test.component.text

    @property
    def profile(self) -> str | None:
        """The selected profile, beside those that apply by themselves."""
        return None if self.test.profile is None else self.test.profile.text


class Library:
    """The models that the tests of one run name, each read once."""

    def __init__(self) -> None:
        self._trees: dict[str, ModelTree] = {}

    def model(self, name: str, folder: Path | None) -> ModelTree:
        """Return a model of the catalogue, or one by its path from a folder. Raises `ModelError`."""
        name = beside("model", name, folder, ModelError)
        if name not in self._trees:
            self._trees[name] = load(name, fetch=False)
        return self._trees[name]


def bind_test(
    test: PolicyTest,
    policy: Policy,
    hosts: dict[str, Host],
    folder: Path | None,
    library: Library,
    findings: list[Diagnostic],
) -> BoundTest:
    """Return a test with all that it names. `hosts` are the file's own, paths begin at `folder`. Collects findings."""
    variants = varied(find_hosts(test.hosts, hosts, folder, findings), test.vary, findings)
    if test.fleet is not None:
        variants = find_fleet(test.fleet, folder, findings)
    tree = None if test.model is None else _model(test.model, folder, library, findings)
    said = _said(test, policy, findings)
    if test.pipeline is not None:
        components = read_components(test.pipeline, folder, findings)
        for expected in test.expect:
            check_names(expected, components, findings)
        return BoundTest(test, policy, None, tuple(variants), components)
    name = _component(test, said, findings)
    shown = [tree] if tree is not None else _own_models(said, name, findings)
    for expected in test.expect:
        if expected.module is not None and not shown:
            message = f'[[test]] "{test.name}" expects something of modules, and names no model'
            hint = 'add `model`, or expect a device alone: `expect = "cuda:0"`'
            findings.append(Diagnostic("DP105", message, expected.place, "modules of what?", help=hint))
            break
        if shown and not any(modules_of(expected, one) for one in shown):
            _check_module(expected, shown[0], findings)
        _check_rule(expected, said, name, findings)
    return BoundTest(test, policy, tree, tuple(variants))


def _said(test: PolicyTest, policy: Policy, findings: list[Diagnostic]) -> list[Policy]:
    """Return a policy's variants on the hosts of a test, with its profile. Collects DP202 for an unknown profile."""
    names = [one.name for one in policy.profiles]
    if test.profile is not None and test.profile.text not in names:
        message = f"the policy has no profile `{test.profile.text}`"
        help_ = did_you_mean(test.profile.text, names) if names else "leave `profile` out"
        findings.append(Diagnostic("DP202", message, test.profile.place, "no such profile", help=help_))
    elif test.profile is not None:
        policy = replace(policy, overrides=replace(policy.overrides, profile=test.profile.text))
    return variants_of(policy, as_asked=True)


def _component(test: PolicyTest, said: Sequence[Policy], findings: list[Diagnostic]) -> str | None:
    """Return the component of a test. Collects DP202 for one that the policy has not, DP105 where one is needed."""
    entries = [entry for one in said for entry in one.components]
    names = list(dict.fromkeys(entry.name for entry in entries))
    if test.component is None:
        if (test.expect or test.granted or test.nodes) and any(map(components_of, said)) and test.model is None:
            message = f'[[test]] "{test.name}" expects something of one of several components'
            hint = f"add `component`: {did_you_mean('', names)}"
            findings.append(Diagnostic("DP105", message, test.place, "which one?", help=hint))
        return None
    name = test.component.text
    if not any(addresses(entry, stem_of(entries, name)) for entry in entries):
        message = f"the policy has no component `{name}`"
        help_ = did_you_mean(name, names) if names else "leave `component` out"
        findings.append(Diagnostic("DP202", message, test.component.place, "no such component", help=help_))
        return None
    return name


def _own_models(said: Sequence[Policy], component: str | None, findings: list[Diagnostic]) -> list[ModelTree]:
    """Return the models that the policy names for a component: any of them may be the one that is planned."""
    entries = () if component is None else (source(one, component) for one in said)
    entry = next((entry for entry in entries if entry is not None), None)
    try:
        found = [own_tree(entry, number) for number in range(len(entry.models))] if entry is not None else []
    except ModelError as broken:
        findings += broken.diagnostics
        return []
    return [tree for tree in found if tree is not None]


def _model(word: Word, folder: Path | None, library: Library, findings: list[Diagnostic]) -> ModelTree | None:
    try:
        return library.model(word.text, folder)
    except ModelError as broken:
        findings += findings_at(broken, word.place, with_lines=False)
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
    hint = tree.listed_by
    hint = f"did you mean `{near}`?\n{hint}" if near else hint
    message = f"`{tree.name}` has no module `{path}`"
    if path in set(tree.tensor_names()):
        message, hint = f"`{path}` is a tensor, and plans place modules", f"write `{path.rpartition('.')[0]}`"
    findings.append(Diagnostic("DP202", message, expected.place, "of no such module", help=hint))


def _check_rule(expected: Expected, said: Sequence[Policy], component: str | None, findings: list[Diagnostic]) -> None:
    meant = [one if component is None else one.for_component(component) for one in said]
    known = [*dict.fromkeys(rule.name for one in meant for rule in one.rules), *DECIDERS]
    if expected.rule is not None and expected.rule not in known:
        message = f"the policy has no rule `{expected.rule}`"
        help_ = did_you_mean(expected.rule, known)
        findings.append(Diagnostic("DP202", message, expected.place, "no such rule", help=help_))
