"""Profiles: what a policy says on some hosts, or when it is asked to.

Owns which profiles apply, and what the policy says with them and with single values (`--set`) laid over it. The host
and the environment are handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.merging import Layer, leaves, merge
from devpolicy._core.language.policy import Asked
from devpolicy._core.toml.document import Document, quote
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from devpolicy._core.language.conditions import Condition, Environment
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.toml.spans import KeyPath


_NO_TEXT = re.compile(r"""\s*(?:[\[{"']|[+-]?[0-9_]+\s*$)""")
"""What begins as TOML's lists, tables and texts do, or is a number that TOML refuses, is no text without its quotes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A variant of a policy. With `when` it applies by itself, on hosts of which that holds."""

    name: str
    when: Condition | None
    content: str
    """What it says, as JSON: two profiles that say the same are equal."""

    @classmethod
    def make(cls, name: str, when: Condition | None, data: dict[str, Any]) -> Profile:
        """Return the profile of a table."""
        return cls(name, when, json.dumps(data, sort_keys=True, default=str))


def layer_of(base: Layer, name: str) -> Layer:
    """Return the layer of a profile of a policy."""
    table = base.data["profile"][name]
    data = {key: value for key, value in table.items() if key != "when"}
    return Layer(base.origins, data, ("profile", name), f"profile.{name}")


def without_profiles(base: Layer) -> Layer:
    """Return a policy's layer without its profiles, and without its tests, which they do not change."""
    left_out = ("profile", "host", "test")
    return replace(base, data={key: value for key, value in base.data.items() if key not in left_out})


def overlaid(
    policy: Policy, host: Host, profile: str | None, overrides: Sequence[str], environment: Environment | None
) -> Policy:
    """Return a policy with what belongs to one host laid over it: `Policy.overlaid`."""
    if not isinstance(host, Host):
        raise PolicyError(f"a policy is asked on a `Host`, not on a value of type {type(host).__name__}")
    if environment is not None and not isinstance(environment, Mapping):
        raise PolicyError(f"an environment maps names to texts, not a value of type {type(environment).__name__}")
    asked = _asked(policy, profile, overrides)
    if asked == Asked() and not policy.profiles:
        return policy
    automatic, notices = _automatic(policy, host, asked.profile, environment)
    if len(automatic) > 1:
        _refuse_conflicts(policy, automatic)
    applied = [*automatic, *([asked.profile] if asked.profile is not None else [])]
    return replace(laid(policy, applied, asked.overrides), notices=(*policy.notices, *notices))


def asking(policy: Policy, profile: str | None, overrides: Sequence[str]) -> Policy:
    """Return a policy that is asked for with a profile and single values on every host: `Policy.asking`."""
    asked = _asked(policy, profile, overrides)
    # What cannot be read is no host's matter.
    laid(policy, [asked.profile] if asked.profile is not None else [], asked.overrides)
    return replace(policy, asked=asked)


def applying(policy: Policy, host: Host) -> Policy:
    """Return a policy without the rules whose `when` does not hold on a host."""
    left_out = tuple(rule for rule in policy.rules if rule.when is not None and rule.when.unmet(host))
    if not left_out:
        return policy
    rules = tuple(rule for rule in policy.rules if rule not in left_out)
    return replace(policy, rules=rules, left_out=(*policy.left_out, *left_out))


def _asked(policy: Policy, profile: str | None, overrides: Sequence[str]) -> Asked:
    """Return what is asked for now, on top of what was before. Raises `PolicyError` for a profile that is not there."""
    if profile is not None and not isinstance(profile, str):
        raise PolicyError(f"a profile is named by text, not by a value of type {type(profile).__name__}")
    if not isinstance(overrides, Sequence) or not all(isinstance(text, str) for text in overrides):
        raise PolicyError("overrides are a list of texts, each `KEY=VALUE`")
    asked = Asked(policy.asked.profile if profile is None else profile, (*policy.asked.overrides, *overrides))
    names = [one.name for one in policy.profiles]
    if asked.profile is not None and asked.profile not in names:
        known = did_you_mean(asked.profile, names) if names else "the policy has no profiles"
        raise PolicyError(Diagnostic("DP202", f"`{policy.source}` has no profile `{asked.profile}`", help=known))
    return asked


def _automatic(
    policy: Policy, host: Host, asked: str | None, environment: Environment | None
) -> tuple[list[str], list[Diagnostic]]:
    """Return the profiles that apply by themselves, and what is said of those that ask an environment not given."""
    names: list[str] = []
    notices: list[Diagnostic] = []
    for one in policy.profiles:
        if one.when is None or one.name == asked or one.when.unmet(host, environment):
            continue
        if one.when.variables and environment is None:
            asks = ", ".join(f"`env.{name}`" for name, _ in one.when.variables)
            notices.append(
                Diagnostic(
                    "DP506",
                    f"profile `{one.name}` is left out: it asks for {asks}, and the environment is not read here",
                    one.when.place,
                    help="hand it in: `policy.for_host(host, environment=os.environ)`, or ask for the profile by name",
                    severity="warning",
                )
            )
        else:
            names.append(one.name)
    return names, notices


def _refuse_conflicts(policy: Policy, names: Sequence[str]) -> None:
    """Raise `Unsatisfiable`, DP305, for each key that two profiles set."""
    base = policy.text
    if base is None:
        return
    first: dict[KeyPath, str] = {}
    findings: list[Diagnostic] = []
    for name in names:
        layer = layer_of(base, name)
        for key, own in leaves(layer.data):
            other = first.setdefault(key, name)
            if other != name:
                findings.append(_conflict(layer, ".".join(map(str, key)), own, other, name))
    if findings:
        raise Unsatisfiable(findings)


def _conflict(layer: Layer, key: str, own: KeyPath, one: str, other: str) -> Diagnostic:
    return Diagnostic(
        "DP305",
        f"profiles `{one}` and `{other}` both apply to this host, and both set `{key}`",
        layer.origins.place((*layer.path, *own), "key"),
        "the second",
        help="let their `when` exclude each other, or set the key in one of them",
    )


def laid(policy: Policy, names: Sequence[str], overrides: Sequence[str]) -> Policy:
    """Return a policy with profiles of these names and single values laid over it, in this order, and with no others.

    Raises `PolicyError`.
    """
    applied = (*policy.applied, *names)
    if not names and not overrides:
        return replace(policy, profiles=(), applied=applied)
    from devpolicy._core.language.read import read_layer

    base = policy.text
    if base is None:
        message = "a policy that was made in Python has no text to lay values over"
        raise PolicyError(Diagnostic("DP106", message, help="use `dataclasses.replace`"))
    values = [_override(text) for text in overrides]
    merged = merge([without_profiles(base), *(layer_of(base, name) for name in names), *values])
    read = read_layer(Layer(merged, merged.data), variants=values)
    # What was changed in Python is said last.
    original, unlaid = read_layer(base), ("profiles", "asked")
    changed = {
        entry.name: getattr(policy, entry.name)
        for entry in fields(policy)
        if entry.compare and entry.name not in unlaid and getattr(policy, entry.name) != getattr(original, entry.name)
    }
    # Whatever was laid over it, it is the policy that was named.
    return replace(read, **changed, source=policy.source, profiles=(), applied=applied)


def _override(text: str) -> Layer:
    """Read `KEY=VALUE`: TOML, or a value that is text without its quotes."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        hint = "such as `--set split=never` or `--set workload.context=8192`"
        raise PolicyError(Diagnostic("DP101", f"`{text}` sets nothing: a key, `=` and a value are needed", help=hint))
    try:
        document = Document(text, "--set", PolicyError)
    except PolicyError:
        if _NO_TEXT.match(value):
            raise
        document = Document(f"{key.strip()} = {quote(value.strip())}", "--set", PolicyError)
    return Layer(document, document.data, (), "--set")
