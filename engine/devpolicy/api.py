"""The verbs: `plan`, `plan_all`, `resolve`, `use_policy`.

Owns how the three inputs are gathered (a host that is not given is probed, a model may be a name, a folder or a
module), which policy is in use, and what was resolved beside each other. What follows is a pure function's work.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from os import PathLike
from typing import Any
from warnings import warn

from devpolicy.device import ComponentDevice
from devpolicy.errors import DevPolicyError, DevPolicyWarning, Diagnostic, ModelError, PolicyError, Unsatisfiable
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
PROFILE = "DEVPOLICY_PROFILE"
"""The environment variable that names a profile of the active policy, and of the policies of the commands."""


def plan(
    policy: PolicyLike,
    model: Any,
    host: HostLike | None = None,
    *,
    component: str | None = None,
    target: str | None = None,
) -> Plan:
    """Compile a policy for a model and a host.

    `model` is a `ModelTree`, a `torch.nn.Module`, a Transformers configuration, a catalogue name, a checkpoint folder,
    or a hub id that is in the local cache. `host` is by default this machine; inside `use_policy` it is the block's,
    beside what other components were resolved to there. `target` names the consumer whose form is planned (`"hf"` by
    default). Planning keeps nothing: the same call gives the same plan.

    Raises `PolicyError`, `HostError` or `ModelError` for an input that cannot be read, and `Unsatisfiable` where the
    policy cannot be met.
    """
    loaded = _policy(policy)
    machine, others = _surroundings(host, loaded, {component})
    return make_plan(loaded, _tree(model), machine, component=component, target=target or "hf", claims=_claims(others))


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
    if not isinstance(models, Mapping):
        raise DevPolicyError(f"`models` maps names of components to models, not {_shown(models)}")
    loaded = _policy(policy)
    machine, others = _surroundings(host, loaded, models)
    plans: dict[str, Plan] = {}
    for name, model in models.items():
        claims = _claims([*others, *plans.values()])
        plans[name] = make_plan(loaded, _tree(model), machine, component=name, target=target or "hf", claims=claims)
    return plans


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

    Without a model, rules about modules cannot be applied (DP504), and with one, a rule may match nothing (DP501): that
    is a `DevPolicyWarning`, and with `strict` an error (`Unsatisfiable`).

    Inside `use_policy`, without a `host` of its own, the call takes the block's host, and what a model takes there is
    kept: later calls see it. A component that is resolved again, by the same name, is not counted twice.
    """
    loaded = _policy(policy)
    block = _in_use.get() if host is None else None
    if block is not None:
        return block.device(loaded, component=component, model=model, target=target, strict=strict)
    return _resolve(loaded, _host(host, loaded), component, model, target, strict, {})[0]


def _resolve(
    policy: Policy,
    host: Host,
    component: str | None,
    model: Any,
    target: str | None,
    strict: bool,
    claims: Mapping[str, int],
) -> tuple[ComponentDevice, Plan | None]:
    if model is None:
        choice = choose(policy, host, target=target or "torch")
        _tell(choice.warnings, strict)
        return choice.device, None
    made = make_plan(policy, _tree(model), host, component=component, target=target or "hf", claims=claims)
    _tell(made.warnings, strict)
    return made.device, made


class _Active:
    """A policy in use, the host that it is used on, and what was resolved there."""

    def __init__(self, policy: Policy, host: Host | None) -> None:
        self.policy = policy
        self._host = host
        self._effective: Policy | None = None
        self._resolved: list[Plan] = []
        # One block may be shared by tasks, and the policy of a process is shared by all its threads.
        self._lock = threading.RLock()

    @property
    def host(self) -> Host:
        """The host, probed once."""
        with self._lock:
            if self._host is None:
                self._host = Host.probe(disk_path=self.policy.disk_path)
            return self._host

    @property
    def effective(self) -> Policy:
        """What the policy says on the host, in the environment of the first time that it is asked."""
        with self._lock:
            if self._effective is None:
                self._effective = policy_in_environment(self.policy, self.host)
            return self._effective

    def others(self, components: Container[str | None]) -> list[Plan]:
        """Return what was resolved for others than `components`: a name that was here before is moved, not added."""
        with self._lock:
            return [one for one in self._resolved if one.component is None or one.component not in components]

    def device(
        self, policy: Policy, *, component: str | None, model: Any, target: str | None, strict: bool
    ) -> ComponentDevice:
        """Resolve one component, by any policy, beside what was resolved before."""
        with self._lock:
            others = self.others({component})
            device, made = _resolve(policy, self.host, component, model, target, strict, _claims(others))
            if made is not None:
                self._resolved = [*others, made]
            return device


_in_use: ContextVar[_Active | None] = ContextVar("devpolicy_in_use", default=None)
_of_process: dict[str, _Active] = {}
_process_lock = threading.Lock()


@contextmanager
def use_policy(policy: PolicyLike, host: HostLike | None = None) -> Iterator[Policy]:
    """Make `policy` what `ComponentDevice.resolve_device(None)` asks inside the block, in this thread or task.

    `host` is what the verbs take inside the block where none is given: by default this machine, probed once, when it
    is first needed. Blocks nest; the inner one counts. asyncio tasks that begin in a block share it, threads do not.
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
    """Return what the active policy gives a component, as `resolve` does; `None` where no policy is active."""
    active = _active()
    if active is None:
        return None
    return active.device(active.effective, component=component, model=model, target=None, strict=False)


def _active() -> _Active | None:
    active = _in_use.get()
    if active is not None:
        return active
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    # Read once for the process: a component's device does not change under it when the file does.
    with _process_lock:
        if name not in _of_process:
            _of_process[name] = _Active(_policy_of_process(name), None)
        return _of_process[name]


def _policy_of_process(name: str) -> Policy:
    try:
        return Policy.load(name)
    except PolicyError as broken:
        first, *rest = broken.diagnostics
        note = f"the environment variable `{VARIABLE}` names it"
        raise PolicyError([replace(first, notes=(*first.notes, note)), *rest]) from None


def policy_in_environment(
    policy: Policy, host: Host, *, profile: str | None = None, overrides: Sequence[str] = ()
) -> Policy:
    """Return what a policy says on a host, in the environment of this process: `DEVPOLICY_PROFILE` and `env.NAME`.

    The commands do this, and the policy in use; the verbs with a policy of their own read no environment.
    """
    named = os.environ.get(PROFILE) or None
    try:
        return policy.for_host(host, profile=profile or named, overrides=overrides, environment=os.environ)
    except PolicyError as broken:
        if profile is not None or named is None or broken.code != "DP202":
            raise
        first, *rest = broken.diagnostics
        note = f"the environment variable `{PROFILE}` names it"
        raise PolicyError([replace(first, notes=(*first.notes, note)), *rest]) from None


def _policy(policy: PolicyLike) -> Policy:
    return policy if isinstance(policy, Policy) else Policy.load(policy)


def _surroundings(host: HostLike | None, policy: Policy, components: Container[str | None]) -> tuple[Host, list[Plan]]:
    """Return the host, and what others than `components` were resolved to there."""
    block = _in_use.get() if host is None else None
    return (_host(host, policy), []) if block is None else (block.host, block.others(components))


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
    if isinstance(model, Mapping) or hasattr(model, "model_type"):
        return ModelTree.from_config(model)
    raise ModelError(
        f"a model is a name, a folder, a module, a Transformers configuration or a model tree, not {_shown(model)}"
    )


def _claims(plans: Iterable[Plan]) -> dict[str, int]:
    """Return the bytes that plans take of each device: their activations too, because components may run at once."""
    claims: dict[str, int] = {}
    for made in plans:
        for device, budget in made.ledger.items():
            # Of the disk a plan takes what it writes there; what it only reads there was there before.
            taken = made.load.rewritten if device == "disk" else budget.used - budget.others
            claims[device] = claims.get(device, 0) + taken
    return claims


def _tell(warnings: Sequence[Diagnostic], strict: bool) -> None:
    """Warn whoever called devpolicy, through however many of its functions; raise where the caller is strict."""
    if strict and warnings:
        raise Unsatisfiable([replace(warning, severity="error") for warning in warnings])
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "devpolicy":
        level, frame = level + 1, frame.f_back
    for warning in warnings:
        warn(warning.render(), DevPolicyWarning, stacklevel=level)


def _shown(value: Any) -> str:
    return "`None`" if value is None else f"a value of type {type(value).__name__}"


__all__ = ["active_device", "active_policy", "plan", "plan_all", "resolve", "use_policy"]
