"""Arguments that name several models or hosts: globs of the catalogue, and a component's own models.

Owns how such names become the ones that are meant. `inputs` reads each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from devpolicy._core.cli.inputs import how_to_name
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.language.layers import source
from devpolicy._core.verbs.inputs import own_tree

if TYPE_CHECKING:
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree


def listed(given: Sequence[str]) -> list[str]:
    """Return the entries of options that may each hold a list with commas."""
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def hosts_like(given: Sequence[str]) -> list[str | None]:
    """Return the names of hosts, of a glob those of the catalogue; `None`, this machine, where none is given."""
    from devpolicy._core.host.catalogue import catalogue

    return [*dict.fromkeys(_known(given, catalogue(), "host"))] or [None]


def models_like(given: Sequence[str]) -> list[str]:
    """Return the names of models, of a glob those of the catalogue."""
    from devpolicy._core.model.catalogue import model_catalogue

    return [*dict.fromkeys(_known(given, model_catalogue(), "model"))]


def _known(given: Sequence[str], catalogue: Iterable[str], what: str) -> Iterator[str]:
    """Yield the names that are given, of a glob those of the catalogue. Raises `DevPolicyError` where there is none."""
    for name in given:
        if not any(sign in name for sign in "*?["):
            yield name
            continue
        found = [known for known in catalogue if fnmatchcase(known, name)]
        if not found:
            hint = f"`devpolicy {what} list` shows them"
            raise DevPolicyError(Diagnostic("", f"no {what} of the catalogue is like `{name}`", help=hint))
        yield from found


def own_models(policy: Policy, component: str | None, option: str = "--model") -> list[ModelTree]:
    """Return the models of a component. Raises `DevPolicyError` where the policy names none; `option` gives one."""
    entry = None if component is None else source(policy, component)
    trees = [] if entry is None else [own_tree(entry, number) for number in range(len(entry.models))]
    found = [tree for tree in trees if tree is not None]
    if not found:
        message = "no model is given" if component is None else f"component `{component}` has no model"
        raise DevPolicyError(Diagnostic("", message, help=how_to_name(option)))
    return found
