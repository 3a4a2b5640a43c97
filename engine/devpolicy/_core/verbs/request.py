"""What is asked of one component, and what it is given.

Owns the two values, and how a request is turned into the model and the policy that are meant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import Any

from devpolicy._core.abilities import DEFAULT_TARGET, target_of
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.host import Host
from devpolicy._core.language.layers import source
from devpolicy._core.language.policy import Policy, ResolvedPolicy, apply_overlays
from devpolicy._core.model.held import as_held
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.wishes import Models
from devpolicy._core.verbs.inputs import own_tree, shown, tree_of


@dataclass(frozen=True, slots=True)
class Request:
    """One component to be planned, as a caller asks for it."""

    policy: Policy
    component: str | None = None
    model: Any = None
    """What the caller gives; `None` means what the policy says of the component."""
    component_class: str | None = None
    """The path of the component's class, where it is known."""
    target: str | None = None
    own: tuple[tuple[str, str], ...] = ()
    """The `dtype` and the `attention` that the component asks for itself, where the policy says none."""

    def __post_init__(self) -> None:
        if self.component is not None and not isinstance(self.component, str):
            raise DevPolicyError(f"a component is named by text, not by {shown(self.component)}")
        if self.component_class is not None and not isinstance(self.component_class, str):
            raise DevPolicyError(f"a component's class is a class or its path, not {shown(self.component_class)}")
        if self.target is not None:
            target_of(self.target)

    @property
    def has_size(self) -> bool:
        """Whether there is a model, or `needs` in the policy: without either only a device is chosen."""
        if self.model is not None:
            return True
        return self.component is not None and source(self.policy, self.component, self.component_class) is not None

    def on(self, host: Host) -> Request:
        """Return the request with the profiles and values of its policy that belong to a host applied."""
        policy = apply_overlays(self.policy, host)
        return self if policy is self.policy else replace(self, policy=policy)

    @property
    def resolved(self) -> ResolvedPolicy:
        """The policy resolved for the component, with the component's own loading where the policy sets none."""
        said = self.policy.for_component(self.component, self.component_class)
        if not self.own:
            return said
        own = dict(self.own)
        workload = replace(said.workload, dtype=said.workload.dtype or own.get("dtype"))
        loading = replace(said.loading, attention=said.loading.attention or own.get("attention"))
        return replace(said, workload=workload, loading=loading)

    @property
    def meaning(self) -> tuple[ResolvedPolicy, str, object]:
        """The policy resolved for the component, the consumer, and what gives a size that the caller leaves out."""
        resolved = self.resolved
        entry = None if self.component is None else source(self.policy, self.component, self.component_class)
        own = None if self.model is not None or entry is None else (entry.models, entry.folder, entry.needs)
        return resolved, self.target or resolved.target or DEFAULT_TARGET, own

    def says_the_same_as(self, other: Request) -> bool:
        """Whether both ask for one component, with one model, in one way, as far as that is known without reading."""
        return self.component == other.component and self.meaning == other.meaning and self.names_the_model_of(other)

    def names_the_model_of(self, other: Request) -> bool:
        """Whether both give the same model, so that it need not be read to know."""
        by_name = isinstance(self.model, str | PathLike) and isinstance(other.model, str | PathLike)
        return self.model is other.model or (by_name and os.fspath(self.model) == os.fspath(other.model))

    def tree(self, number: int = 0) -> ModelTree | None:
        """Return the structure of the model, of a list the one of this number; `None` where at most bytes are known.

        Raises `ModelError`.
        """
        if self.model is None and self.component is not None:
            entry = source(self.policy, self.component, self.component_class)
            tree = None if entry is None else own_tree(entry, number)
        else:
            tree = tree_of(self.model)
        resolved = self.resolved
        asked, architecture, named = resolved.loading, resolved.loading.architecture, self.target or resolved.target
        if tree is not None and tree.format == "gguf" and named is not None and _unpacks(named):
            from devpolicy._core.model.gguf_dense import dequantized

            tree, architecture = dequantized(tree, architecture), None
        if tree is None or not (architecture or asked.variant or asked.adapter):
            return tree
        return as_held(tree, architecture=architecture, variant=asked.variant, adapters=asked.adapter)

    def models(self) -> Models:
        """Return the models among which the policy lets the component choose; the one that is given is the only one."""
        entry = None if self.component is None else source(self.policy, self.component, self.component_class)
        own = () if self.model is not None or entry is None else entry.models
        read = cache(self.tree)
        if own:
            return Models(own, read)
        tree = read(0)
        return Models((None if tree is None else tree.name,), read)


def _unpacks(target: str) -> bool:
    """Return whether a consumer loads GGUF files, and not as they are stored."""
    abilities = target_of(target).abilities
    return "gguf" not in abilities.reads and "gguf" in abilities.schemes


@dataclass(frozen=True, slots=True)
class Planned:
    """A component that is there: what was asked, and its plan."""

    request: Request
    tree: ModelTree | None
    plan: Plan
    reserved: Mapping[str, int]
    """Bytes by device that the components beside it have."""
    resolved: ResolvedPolicy
    """What the policy says of the component, with every wish as it was granted."""
