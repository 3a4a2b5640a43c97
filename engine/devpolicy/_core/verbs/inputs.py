"""What callers give for a policy, a host and a model, and the values that are meant.

Owns the kinds of things that each may be, the error where one is given for another, and where a policy's own `model`
is found.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from devpolicy._core.errors import Diagnostic, HostError, ModelError, PolicyError, findings_at
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Component, Policy, ResolvedPolicy
from devpolicy._core.model.catalogue import load
from devpolicy._core.model.pipelines import from_pipeline, is_pipeline
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.names import beside, not_a

PROFILE = "DEVPOLICY_PROFILE"
"""The environment variable that names a profile of the active policy, and of the policies of the commands."""

PolicyLike = Policy | str | PathLike[str]
HostLike = Host | str | PathLike[str]


def policy_of(policy: PolicyLike) -> Policy:
    """Return the policy that is given by value, name or path. Raises `PolicyError`."""
    if isinstance(policy, ResolvedPolicy):
        hint = "plan with the `Policy` itself; `with_overrides` gives it a profile, values and an environment"
        raise PolicyError(Diagnostic("DP102", "this policy is resolved for one host already", help=hint))
    return policy if isinstance(policy, Policy) else Policy.load(policy)


def policy_in_environment(policy: Policy, *, profile: str | None = None, overrides: Sequence[str] = ()) -> Policy:
    """Return a policy with what belongs to the environment: `DEVPOLICY_PROFILE` and `env.NAME`.

    The commands do this, and the policy in use; the verbs with a policy of their own read no environment.
    """
    return _asked(policy, profile, overrides, os.environ)


def asked_in_environment(policy: Policy, *, profile: str | None, overrides: Sequence[str] = ()) -> Policy:
    """Return a policy that is asked for on every host with a profile, by default that of `DEVPOLICY_PROFILE`.

    For questions about many hosts, which read nothing else of the environment.
    """
    return _asked(policy, profile, overrides, None)


def _asked(
    policy: Policy, profile: str | None, overrides: Sequence[str], environment: Mapping[str, str] | None
) -> Policy:
    named = os.environ.get(PROFILE) or None
    asked = profile or policy.overrides.profile or named
    try:
        return policy.with_overrides(profile=asked, values=overrides, environment=environment)
    except PolicyError as broken:
        if profile is not None or named is None or broken.code != "DP202":
            raise
        raise PolicyError(findings_at(broken, note=f"the environment variable `{PROFILE}` names it")) from None


def host_of(host: HostLike | None, policy: Policy) -> Host:
    """Return the host that is given by value, name or path, this machine for `None`. Raises `HostError`."""
    if host is None:
        return Host.probe(disk_path=policy.disk_path)
    if isinstance(host, Host):
        return host
    if isinstance(host, ModelTree) or hasattr(host, "named_modules") or hasattr(host, "model_type"):
        raise HostError(not_a("host", f"a `{type(host).__name__}`", "model"))
    return Host.load(host)


def tree_of(model: Any, architecture: str | None = None) -> ModelTree:
    """Return the tree of anything that a model may be, as a class of it where one is named. Raises `ModelError`."""
    if architecture is not None and (isinstance(model, ModelTree) or hasattr(model, "named_modules")):
        raise ModelError("`architecture` chooses the class of a checkpoint, and this model has one")
    if isinstance(model, ModelTree):
        return model
    if isinstance(model, Host):
        raise ModelError(not_a("model", "a `Host`", "host"))
    if isinstance(model, str | PathLike):
        return ModelTree.load(model, architecture=architecture)
    if hasattr(model, "named_modules"):
        return ModelTree.from_module(model)
    if is_pipeline(model):
        return from_pipeline(model)
    if isinstance(model, Mapping) or hasattr(model, "model_type"):
        return ModelTree.from_config(model, architecture=architecture)
    raise ModelError(
        f"a model is a name, a folder, a module, a Transformers configuration or a model tree, not {shown(model)}"
    )


def own_tree(entry: Component, number: int = 0) -> ModelTree | None:
    """Return the tree of a `model` that a policy's entry names, `None` where it says only what it needs.

    `number` is the model's position in a list. A name of the catalogue comes first, then a path beside the policy's
    file, then a hub id. Raises `ModelError` with the place in the policy.
    """
    if not entry.models:
        return None
    try:
        return load(beside("model", entry.models[number], entry.folder or ".", ModelError), fetch=False)
    except ModelError as broken:
        note = f"`model` of component `{entry.name}` names it"
        raise ModelError(findings_at(broken, entry.model_places[number], note=note, with_lines=False)) from None


def class_path(cls: type | str | None) -> str | None:
    """Return the path of a component's class."""
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else cls


def shown(value: object) -> str:
    """Return what a message calls a value of a wrong type."""
    return "`None`" if value is None else f"a value of type {type(value).__name__}"
