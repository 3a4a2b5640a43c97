"""The verbs: `plan`, `plan_all`, `resolve`, `use_policy`.

Owns how the three inputs are gathered: a host that is not given is probed, a model may be a name, a
folder or a module, and the policy in use is found. What follows is a pure function's work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from typing import Any
from warnings import warn

from devpolicy.device import ComponentDevice
from devpolicy.errors import DevPolicyWarning
from devpolicy.host import Host
from devpolicy.language.policy import Policy
from devpolicy.model import ModelTree
from devpolicy.placement.choice import choose
from devpolicy.placement.plan import Plan
from devpolicy.placement.planner import make_plan

PolicyLike = Policy | str | PathLike[str]
HostLike = Host | str | PathLike[str]

VARIABLE = "DEVPOLICY"
"""The environment variable that names the active policy of a process."""


def plan(
    policy: PolicyLike,
    model: Any,
    host: HostLike | None = None,
    *,
    component: str | None = None,
    target: str | None = None,
) -> Plan:
    """Compile a policy for a model and a host.

    `model` is a `ModelTree`, a `torch.nn.Module`, a Transformers configuration, a catalogue name, or a checkpoint
    folder. `host` is by default this machine. `target` names the consumer whose form is planned (`"hf"` by
    default). Raises `PolicyError`, `HostError` or `ModelError` for an input that cannot be read, and
    `Unsatisfiable` where the policy cannot be met.
    """
    policy = _policy(policy)
    host = _host(host, policy)
    return make_plan(policy, _tree(model), host, component=component, target=target or "hf")


def plan_all(
    policy: PolicyLike,
    models: Mapping[str, Any],
    host: HostLike | None = None,
    *,
    target: str | None = None,
) -> dict[str, Plan]:
    """Compile a policy for several components on one host, in the order given.

    Each sees what those before it took. `models` maps a component's name to its model, as `plan` takes it. Raises as
    `plan` does.
    """
    policy = _policy(policy)
    host = _host(host, policy)
    claims: dict[str, int] = {}
    plans = {}
    for name, model in models.items():
        made = make_plan(policy, _tree(model), host, component=name, target=target or "hf", claims=claims)
        plans[name] = made
        _claim(claims, made)
    return plans


def _claim(claims: dict[str, int], made: Plan) -> None:
    """Add what a plan takes to the claims: its activations too, because another component may run meanwhile."""
    for device, budget in made.ledger.items():
        claims[device] = claims.get(device, 0) + budget.used - budget.others


def resolve(
    policy: PolicyLike,
    host: HostLike | None = None,
    *,
    component: str | None = None,
    model: Any = None,
    target: str | None = None,
    strict: bool = False,
) -> ComponentDevice:
    """Return the device that a policy gives a component: with `model` the whole plan's, without it the device choice.

    Without a model, rules about modules cannot be applied: that is a `DevPolicyWarning`, and with `strict` an error
    (`Unsatisfiable`, DP504).
    """
    policy = _policy(policy)
    host = _host(host, policy)
    if model is not None:
        return plan(policy, model, host, component=component, target=target).device
    choice = choose(policy, host, target=target or "torch", strict=strict)
    for warning in choice.warnings:
        warn(warning.render(), DevPolicyWarning, stacklevel=2)
    return choice.device


class _Active:
    """A policy in use, with the host that it was first asked for."""

    def __init__(self, policy: Policy, host: Host | None) -> None:
        self.policy = policy
        self._host = host
        self._claims: dict[str, int] = {}
        self._lock = threading.RLock()

    @property
    def host(self) -> Host:
        """The host, probed once."""
        with self._lock:
            if self._host is None:
                self._host = _host(None, self.policy)
            return self._host

    def device(self, component: str | None, model: Any) -> ComponentDevice:
        """Resolve one component. What a model takes is kept: the next component sees it."""
        if model is None:
            return resolve(self.policy, self.host, component=component)
        with self._lock:
            made = make_plan(self.policy, _tree(model), self.host, component=component, claims=self._claims)
            _claim(self._claims, made)
            return made.device


_in_use: ContextVar[_Active | None] = ContextVar("devpolicy_in_use", default=None)
_of_process: dict[str, _Active] = {}


@contextmanager
def use_policy(policy: PolicyLike, host: HostLike | None = None) -> Iterator[Policy]:
    """Make `policy` what `ComponentDevice.resolve_device(None)` asks inside the block, in this thread or task.

    The host is probed once, when it is first needed. Blocks nest; the inner one counts.
    """
    loaded = _policy(policy)
    token = _in_use.set(_Active(loaded, None if host is None else _host(host, loaded)))
    try:
        yield loaded
    finally:
        _in_use.reset(token)


def active_policy() -> Policy | None:
    """Return the policy of the innermost `use_policy`, else the one that `DEVPOLICY` names, else `None`."""
    active = _active()
    return None if active is None else active.policy


def active_device(*, component: str | None = None, model: Any = None) -> ComponentDevice | None:
    """Return what the active policy gives a component; `None` where no policy is active."""
    active = _active()
    if active is None:
        return None
    return active.device(component, model)


def _active() -> _Active | None:
    active = _in_use.get()
    if active is not None:
        return active
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    # Read once for the process: a component's device does not change under it when the file does.
    if name not in _of_process:
        _of_process[name] = _Active(Policy.load(name), None)
    return _of_process[name]


def _policy(policy: PolicyLike) -> Policy:
    return policy if isinstance(policy, Policy) else Policy.load(policy)


def _host(host: HostLike | None, policy: Policy) -> Host:
    if host is None:
        return Host.probe(disk_path=policy.disk_path)
    return host if isinstance(host, Host) else Host.load(host)


def _tree(model: Any) -> ModelTree:
    if isinstance(model, ModelTree):
        return model
    if isinstance(model, str | PathLike):
        return ModelTree.load(model)
    if hasattr(model, "named_modules"):
        return ModelTree.from_module(model)
    return ModelTree.from_config(model)


__all__ = ["active_device", "active_policy", "plan", "plan_all", "resolve", "use_policy"]
