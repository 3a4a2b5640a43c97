"""Completion of `--set`, `--what-if`, `--property`, `--component` and `--profile`.

Owns the candidates that come from the language: keys and their words from the policy's JSON schema, names from the
policy on the command line. Whatever fails, a completion offers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.language.schema_walk import Schema, at_path, free_values, properties_of, resolved, words_of

if TYPE_CHECKING:
    import click

    from devpolicy._core.language.policy import Policy

_DEEPEST = 3
"""Levels of a dotted key that are offered: `memory.cuda.cap`, `component.generator.split`."""
_NOT_SET = frozenset({"schema", "extends", "test", "host", "rule"})
"""Keys that `--set` cannot change, or that are arrays of tables."""


def keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a key of the policy for `--set`, and the words that it takes behind `=`."""
    from devpolicy._core.language.schema import policy_schema

    schema = policy_schema()
    key, equals, _ = incomplete.partition("=")
    if equals:
        words = words_of(at_path(schema, key.split("."), schema), schema)
        return _starting((f"{key}={word}" for word in words), incomplete)
    policy = _policy(context)
    names = {} if policy is None else {"component": component_names(policy), "profile": profile_names(policy)}
    return _starting(_dotted(schema, schema, (), names), incomplete)


def changes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a fact of the host, or a key of the workload, for `--what-if`."""
    from devpolicy._core.cli.what_if import WORKLOAD
    from devpolicy._core.host import ACCELERATOR_TYPES

    of_devices = (f"{kind}.{fact}" for kind in ACCELERATOR_TYPES for fact in ("count", "free", "memory"))
    facts = [*of_devices, "free", "memory", "disk", "disk_free", *WORKLOAD]
    return _starting((f"{fact}=" for fact in facts), incomplete)


def properties(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a property for `verify --property`; `never_on` with the types of devices."""
    from devpolicy._core.host import ACCELERATOR_TYPES
    from devpolicy._core.language.properties import OF_A_FAMILY, OF_A_FLEET, OF_A_PLAN

    known = {**OF_A_PLAN, **OF_A_FAMILY, **OF_A_FLEET}
    about, tokens = known.pop("never_on"), known.pop("context")
    known["context:8192"] = tokens
    known |= {f"never_on:{kind}": about for kind in (*ACCELERATOR_TYPES, "cpu", "disk")}
    return [CompletionItem(name, help=text) for name, text in known.items() if name.startswith(incomplete)]


def components(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a component of the policy on the command line."""
    policy = _policy(context)
    return [] if policy is None else _starting(component_names(policy), incomplete)


def profiles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a profile of the policy on the command line."""
    policy = _policy(context)
    return [] if policy is None else _starting(profile_names(policy), incomplete)


def component_names(policy: Policy) -> list[str]:
    """Return the names of a policy's components that are not globs."""
    return [entry.name for entry in policy.components if not entry.is_glob]


def profile_names(policy: Policy) -> list[str]:
    """Return the names of a policy's profiles."""
    return [profile.name for profile in policy.profiles]


def _policy(context: click.Context) -> Policy | None:
    from devpolicy._core.language.policy import Policy

    # An option whose value is being typed ends Click's parsing: arguments before it are left over.
    name = context.params.get("policy") or next(iter(context.args), None)
    try:
        return Policy.load(name) if isinstance(name, str) else None
    except DevPolicyError:
        return None


def _dotted(schema: Schema, root: Schema, path: tuple[str, ...], names: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Yield the dotted keys of a table's schema, those with a value with `=`."""
    for key, entry in properties_of(schema, root).items():
        if not path and key in _NOT_SET:
            continue
        here = (*path, key)
        if not path and key in names:
            named = [resolved(child, root) for child in free_values(entry, root)]
            for name in names[key]:
                for child in named:
                    yield from _dotted(child, root, (*here, name), {})
        elif properties_of(entry, root) and len(here) < _DEEPEST:
            yield from _dotted(entry, root, here, {})
        else:
            yield f"{'.'.join(here)}="


def _starting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]
