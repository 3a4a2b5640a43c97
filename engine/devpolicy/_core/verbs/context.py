"""Which policy is in use, on which host, and what was resolved there.

Owns `use_policy` and the policy that `DEVPOLICY` names. How components are planned beside each other is `joint`'s.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from dataclasses import replace
from typing import Any
from warnings import warn

from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import DevPolicyError, DevPolicyWarning, Diagnostic, PolicyError, Unsatisfiable, findings_at
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.names import beside
from devpolicy._core.verbs.decision import Decision, decide
from devpolicy._core.verbs.inputs import HostLike, PolicyLike, host_of, policy_in_environment, policy_of
from devpolicy._core.verbs.joint import JointPlanner, Planned, Request

VARIABLE = "DEVPOLICY"
"""The environment variable that names the active policy of a process."""


def device_of(joint: JointPlanner, request: Request, *, strict: bool) -> ComponentDevice:
    """Return a component's device: of its plan, which is kept, or where its size is unknown, the device choice."""
    decision = decide(joint, request)
    emit_warnings(decision.warnings, strict=strict)
    return decision.device


class PolicyContext:
    """A policy in use, the host that it is used on, and what was resolved there."""

    def __init__(self, policy: Policy, host: Host | None) -> None:
        self.policy = policy
        self.given = host
        """The host that it was made for; `None` for this machine."""
        self._joint: JointPlanner | None = None
        self._effective: Policy | None = None
        # One block may be shared by tasks, and the policy of a process is shared by all its threads.
        self.lock = threading.RLock()

    @property
    def joint(self) -> JointPlanner:
        """What was resolved, on the host, which is probed once."""
        with self.lock:
            if self._joint is None:
                self._joint = JointPlanner(
                    Host.probe(disk_path=self.policy.disk_path) if self.given is None else self.given
                )
            return self._joint

    @property
    def effective(self) -> Policy:
        """The policy with the environment's profile and variables, as they are when it is first used."""
        with self.lock:
            if self._effective is None:
                self._effective = policy_in_environment(self.policy)
            return self._effective

    def copy(self) -> JointPlanner:
        """Return what was resolved as it is now, to plan beside it."""
        with self.lock:
            return replace(self.joint)

    def decide(self, request: Request) -> Decision:
        """Decide for one component, by any policy, beside what was resolved before. Nothing is warned about."""
        with self.lock:
            return decide(self.joint, request)

    def release(self, placed: Planned) -> None:
        """Take back what a component claims that is no longer there."""
        with self.lock:
            joint = self.joint
            joint.placed = tuple(one for one in joint.placed if one is not placed)

    def device(self, request: Request, *, strict: bool = False) -> ComponentDevice:
        """Resolve one component, by any policy, beside what was resolved before."""
        with self.lock:
            return device_of(self.joint, request, strict=strict)


_in_use: ContextVar[tuple[PolicyContext, ...]] = ContextVar("devpolicy_in_use", default=())
"""The blocks that were entered and not left, the innermost last."""
_of_process: dict[str, PolicyContext] = {}
_process_lock = threading.Lock()


class use_policy(ContextDecorator):  # noqa: N801 - it is called like a function, as `contextlib.suppress` is
    """Make `policy` what `ComponentDevice.resolve_device(None)` asks inside the block, in this thread or task.

    `host` is what the verbs take inside the block where none is given: by default this machine, probed once, when it
    is first needed, and inside `simulate_host` each simulated one. Blocks nest; the inner one counts. asyncio tasks
    that begin in a block share it, threads do not. A block is entered once, and left where it was entered; blocks may
    be left in any order. Raises `DevPolicyError` else, and what reading the policy and the host raise.
    """

    def __init__(self, policy: PolicyLike, host: HostLike | None = None) -> None:
        self._given = policy, host
        self._entered: tuple[PolicyContext, Token[tuple[PolicyContext, ...]]] | None = None

    def _recreate_cm(self) -> use_policy:
        # A decorated function enters a block of its own at each call.
        return type(self)(*self._given)

    def __enter__(self) -> Policy:
        if self._entered is not None:
            raise DevPolicyError(
                "this `use_policy` block was entered before: write `use_policy(...)` again for another"
            )
        policy, host = self._given
        loaded = policy_of(policy)
        block = PolicyContext(loaded, None if host is None else host_of(host, loaded))
        self._entered = block, _in_use.set((*_in_use.get(), block))
        _components().put()
        return loaded

    def __exit__(self, *_: object) -> None:
        blocks = _in_use.get()
        try:
            if self._entered is None:
                raise ValueError
            own, token = self._entered
            _in_use.reset(token)  # refuses another thread's or task's, and a second time
        except (ValueError, RuntimeError):
            message = "a `use_policy` block is left once, in the thread or task that entered it"
            raise DevPolicyError(message) from None
        # Generators and exit stacks may leave blocks in another order: those that others entered meanwhile stay.
        _in_use.set(tuple(block for block in blocks if block is not own))
        _components().take()


def _components() -> Any:
    """Return what makes Haystack's components ask the policy in use."""
    from devpolicy._core.targets.haystack_components.ambient import COMPONENTS

    return COMPONENTS


def current_context(host: HostLike | None) -> PolicyContext | None:
    """Return the enclosing `use_policy` block, unless a host is passed."""
    return _innermost() if host is None else None


def _innermost() -> PolicyContext | None:
    blocks = _in_use.get()
    return blocks[-1] if blocks else None


def planning_state(host: HostLike | None, policy: Policy) -> JointPlanner:
    """Return a host with what was resolved on it: the enclosing block's, unless a host is passed."""
    block = current_context(host)
    return JointPlanner(host_of(host, policy)) if block is None else block.copy()


def active_policy() -> Policy | None:
    """Return the policy of the innermost `use_policy`, else the one that `DEVPOLICY` names, else `None`."""
    active = active_context()
    return None if active is None else active.policy


def active_device(*, component: str | None = None, model: Any = None) -> ComponentDevice | None:
    """Return what the active policy gives a component, as `resolve` does; `None` where no policy is active."""
    active = active_context()
    return None if active is None else active.device(Request(active.effective, component, model))


def active_context() -> PolicyContext | None:
    """Return the innermost `use_policy` block, else that of the policy that `DEVPOLICY` names, else `None`."""
    active = _innermost()
    if active is not None:
        return active
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    # Read once for the process: a component's device does not change under it when the file does.
    with _process_lock:
        if name not in _of_process:
            _of_process[name] = PolicyContext(_policy_of_process(name), None)
        return _of_process[name]


def _policy_of_process(name: str) -> Policy:
    try:
        return Policy.load(beside("policy", name, _components().folder, PolicyError))
    except PolicyError as broken:
        raise PolicyError(findings_at(broken, note=f"the environment variable `{VARIABLE}` names it")) from None


_ADVICE = frozenset({"DP425"})
"""What a plan says of its policy, and a program that runs need not hear each time: nothing goes wrong by it."""


def emit_warnings(warnings: Sequence[Diagnostic], *, strict: bool) -> None:
    """Emit warnings with the stack level of the first frame outside of devpolicy; with `strict` raise them."""
    if strict and warnings:
        raise Unsatisfiable([replace(warning, severity="error") for warning in warnings])
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "devpolicy":
        level, frame = level + 1, frame.f_back
    for warning in warnings:
        if warning.code not in _ADVICE:
            warn(warning.render(), DevPolicyWarning, stacklevel=level)
