"""The plan of a fleet: on which node each component is, with its plan there.

Owns `FleetPlan`, its JSON form and its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from types import MappingProxyType
from typing import Any

from devpolicy._core.errors import Diagnostic
from devpolicy._core.fleet.certificate import FleetCertificate
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import Host
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.placement.saved import PlanError, load_json, read_plan
from devpolicy._core.public import public
from devpolicy._core.text import json_text
from devpolicy._core.toml.tables import did_you_mean

_public = public("devpolicy.fleet")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a plan on a node was made of, so that a process there can make it again."""

    policy: ResolvedPolicy
    """With every wish fixed."""
    tree: ModelTree | None
    host: Host
    reserved: Mapping[str, int]
    """The bytes that others take on each device of the node."""
    target: str | None

    def plan(self, component: str | None, ids: Sequence[int] | None = None) -> Plan:
        """Plan again; given ordinals, on a host of which only these are visible. Raises `Unsatisfiable`."""
        host, reserved = self.host, dict(self.reserved)
        kinds = {one.type for one in host.accelerators}
        if ids is not None and kinds:
            (kind,) = kinds
            host = host.restrict(ids)
            kept = {name: size for name, size in reserved.items() if name in ("cpu", "disk")}
            there = {f"{kind}:{at}": reserved.get(f"{kind}:{number}", 0) for at, number in enumerate(ids)}
            reserved = {**kept, **there}
        # What kept copies apart on the whole node names devices that are not visible here.
        avoid = tuple(term for term in self.policy.avoid if ids is None or term.id is None)
        policy = replace(self.policy, component=component, avoid=avoid, replicas=1)
        return make_plan(policy, self.tree, host, target=self.target, reserved=reserved, advise=False)


@_public
@dataclass(frozen=True, slots=True)
class NodePlan:
    """One component, or one of its replicas, on its node."""

    node: str
    plan: Plan
    elsewhere: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Other nodes, alike ones as one, each with why the component is not there."""
    recipe: Recipe | None = field(default=None, compare=False, repr=False)
    """What it was made of; `None` for a plan that was read from a file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON, with its node."""
        return {"node": self.node, **self.plan.to_dict()}


@_public
@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A policy compiled for a fleet: each component by its name, replicas as `NAME/0`, `NAME/1`, …"""

    components: Mapping[str, NodePlan]
    warnings: tuple[Diagnostic, ...] = ()
    certificate: FleetCertificate | None = None
    """How far the plan can be from the best one; `None` where it was shown to be the best."""
    fleet: Fleet | None = field(default=None, compare=False, repr=False)
    """The fleet that it was made for; `None` for a plan that was read from a file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", MappingProxyType(dict(self.components)))

    def __repr__(self) -> str:
        return f"<FleetPlan: {len(self.components)} components on {len(self.nodes)} nodes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return FleetPlan, (dict(self.components), self.warnings, self.certificate, self.fleet)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def nodes(self) -> Mapping[str, tuple[str, ...]]:
        """The components on each node that is used, in the order in which they were planned there."""
        found: dict[str, list[str]] = {}
        for name, one in self.components.items():
            found.setdefault(one.node, []).append(name)
        return {node: tuple(names) for node, names in found.items()}

    @property
    def digest(self) -> str:
        """A SHA-256 over the node and the digest of each component's plan."""
        given = [[name, one.node, one.plan.digest] for name, one in self.components.items()]
        text = json.dumps({"schema": 1, "components": given}, ensure_ascii=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def why(self, component: str, module: str | None = None) -> str:
        """Return why a component is on its node, and why a module of it is where it is, as text of several lines.

        Raises `PlanError` where there is no such component, and `UnknownModuleError` as `Plan.explain` does.
        """
        self.check_component(component)
        one = self.components[component]
        lines = [f"node: {one.node}", *(f"  not {node}: {reason}" for node, reason in one.elsewhere)]
        return "\n".join([*lines, one.plan.explain(module)])

    def check_component(self, component: str) -> None:
        """Raise `PlanError` (DP202) where the plan has no component of this name."""
        if component not in self.components:
            hint = did_you_mean(component, self.components)
            raise PlanError(Diagnostic("DP202", f"the plan has no component `{component}`", help=hint))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON. `FleetPlan.from_dict` reads it back to an equal plan."""
        return {
            "schema": 1,
            "components": {name: one.to_dict() for name, one in self.components.items()},
            "warnings": [warning.to_dict() for warning in self.warnings],
            **({} if self.certificate is None else {"certificate": self.certificate.to_dict()}),
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FleetPlan:
        """Read a plan written by `to_dict`. Raises `PlanError` where it is malformed or its digest does not match."""
        return read_plan(data, cls._read, "a plan of a fleet")

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> FleetPlan:
        components = {}
        for name, one in data["components"].items():
            if not isinstance(name, str) or not isinstance(one["node"], str):
                raise TypeError("components and nodes are named by text")
            components[name] = NodePlan(one["node"], Plan.from_dict(one))
        certificate = data.get("certificate")
        return cls(
            components,
            tuple(map(Diagnostic.from_dict, data["warnings"])),
            None if certificate is None else FleetCertificate.from_dict(certificate),
        )

    def to_json(self) -> str:
        """Return the plan as JSON text, which `FleetPlan.load` reads from a file."""
        return json_text(self.to_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FleetPlan:
        """Read a plan from a JSON file. Raises `PlanError`, DP109 where the file cannot be read."""
        return cls.from_dict(load_json(path))
