"""Profiles: settings that apply on some hosts, or when they are asked for by name.

Owns which profiles apply, and the policy with them and with single values (`--set`) applied. The host
and the environment are handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.language.merging import ConfigLayer, leaves, merge
from devpolicy._core.language.policy import Overrides
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import did_you_mean
from devpolicy._core.toml.writer import quote

if TYPE_CHECKING:
    from devpolicy._core.host import Host
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


def layer_of(base: ConfigLayer, name: str) -> ConfigLayer:
    """Return the layer of a profile of a policy."""
    table = base.data["profile"][name]
    data = {key: value for key, value in table.items() if key != "when"}
    return ConfigLayer(base.origins, data, ("profile", name), f"profile.{name}")


def without_profiles(base: ConfigLayer) -> ConfigLayer:
    """Return a policy's layer without its profiles, and without its tests, which they do not change."""
    left_out = ("profile", "host", "test")
    return replace(base, data={key: value for key, value in base.data.items() if key not in left_out})


def applied(policy: Policy, host: Host) -> Policy:
    """Return a policy with the profiles and the values that belong to one host applied: `apply_overlays`."""
    automatic, notices = _automatic(policy, host)
    if len(automatic) > 1:
        _refuse_conflicts(policy, automatic)
    asked = policy.overrides.profile
    return with_profiles(policy, (*automatic, *([asked] if asked is not None else [])), notices)


def with_overrides(
    policy: Policy, profile: str | None, values: Sequence[str], environment: Environment | None
) -> Policy:
    """Return a policy that is asked for with a profile and single values on every host: `Policy.with_overrides`."""
    if profile is not None and not isinstance(profile, str):
        raise PolicyError(f"a profile is named by text, not by a value of type {type(profile).__name__}")
    if not isinstance(values, Sequence) or not all(isinstance(text, str) for text in values):
        raise PolicyError("overrides are a list of texts, each `KEY=VALUE`")
    if environment is not None and not isinstance(environment, Mapping):
        raise PolicyError(f"an environment maps names to texts, not a value of type {type(environment).__name__}")
    before = policy.overrides
    asked = before.profile if profile is None else profile
    names = [one.name for one in policy.profiles]
    if asked is not None and asked not in names:
        known = did_you_mean(asked, names) if names else "the policy has no profiles"
        raise PolicyError(Diagnostic("DP202", f"`{policy.source}` has no profile `{asked}`", help=known))
    variables = before.environment
    asks = {name for one in policy.profiles if one.when is not None for name, _ in one.when.variables}
    if environment is not None and asks:
        variables = tuple((name, environment[name]) for name in sorted(asks) if name in environment)
    overrides = Overrides(asked, (*before.values, *values), variables)
    made = policy if overrides == before else replace(policy, overrides=overrides)
    if profile is not None or values:
        # What cannot be read is reported now, whatever the host will be.
        with_profiles(made, () if asked is None else (asked,))
    return made


def _automatic(policy: Policy, host: Host) -> tuple[list[str], tuple[Diagnostic, ...]]:
    """Return the profiles that apply by themselves, and warnings of those that ask an environment that is not read."""
    given = policy.overrides.environment
    environment = None if given is None else dict(given)
    names: list[str] = []
    notices: list[Diagnostic] = []
    for one in policy.profiles:
        if one.when is None or one.name == policy.overrides.profile or one.when.unmet(host, environment):
            continue
        if one.when.variables and environment is None:
            asks = ", ".join(f"`env.{name}`" for name, _ in one.when.variables)
            notices.append(
                Diagnostic(
                    "DP506",
                    f"profile `{one.name}` is left out: it asks for {asks}, and the environment is not read here",
                    one.when.place,
                    help="hand it in: `policy.with_overrides(environment=os.environ)`, or ask for the profile by name",
                    severity="warning",
                )
            )
        else:
            names.append(one.name)
    return names, tuple(notices)


def _refuse_conflicts(policy: Policy, names: Sequence[str]) -> None:
    """Raise `Unsatisfiable`, DP305, for each key that two profiles set."""
    base = policy.layer
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


def _conflict(layer: ConfigLayer, key: str, own: KeyPath, one: str, other: str) -> Diagnostic:
    return Diagnostic(
        "DP305",
        f"profiles `{one}` and `{other}` both apply to this host, and both set `{key}`",
        layer.origins.place((*layer.path, *own), "key"),
        "the second",
        help="let their `when` exclude each other, or set the key in one of them",
    )


def with_profiles(policy: Policy, names: tuple[str, ...], notices: tuple[Diagnostic, ...] = ()) -> Policy:
    """Return a policy with profiles of these names and its values applied, in this order, and with no others.

    `notices` are warnings of its plans. Raises `PolicyError`.
    """
    return policy.remembered(("profiles", names, notices), lambda: _with_profiles(policy, names, notices))


def _with_profiles(policy: Policy, names: tuple[str, ...], notices: tuple[Diagnostic, ...]) -> Policy:
    base, made = policy.layer, policy
    if names or policy.overrides.values:
        from devpolicy._core.language.read import read_layer

        values = [_override(text) for text in policy.overrides.values]
        merged = merge([without_profiles(base), *(layer_of(base, name) for name in names), *values])
        # Whatever was applied to it, it is the policy that was named.
        made = replace(read_layer(ConfigLayer(merged, merged.data), variants=values), source=policy.source)
    applied = (*policy.top.applied, *names)
    top = replace(made.top, applied=applied, notices=(*policy.top.notices, *notices))
    return replace(made, top=top, profiles=(), overrides=Overrides())


def _override(text: str) -> ConfigLayer:
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
    return ConfigLayer(document, document.data, (), "--set")
