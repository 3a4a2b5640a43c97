"""The init parameters of a component that is made while a policy is in use.

Owns which components get the policy's device: those that take one and are given none. What a caller gives stays.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devpolicy._core.targets.haystack_components.deciding import Decide, Decider, path_of, takes_any, tell, undecided
from devpolicy._core.targets.haystack_components.forms import given_device, written
from devpolicy._core.targets.haystack_components.names import loading, saved_components
from devpolicy._core.targets.haystack_components.signatures import row_of_class, takes_of
from devpolicy._core.targets.haystack_components.table import ONE_DEVICE, Takes, TakesNone

if TYPE_CHECKING:
    from devpolicy._core.verbs.context import PolicyContext
    from devpolicy._core.verbs.decision import Decision

_claims: dict[int, weakref.finalize[Any, Any]] = {}
"""What gives back the claim of a component without a name, by the component's id, while it is there."""
_POSITIONAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)


@dataclass(frozen=True, slots=True)
class Filled:
    """The arguments of a component, with the policy's device where it belongs there."""

    name: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    block: PolicyContext | None = None
    decision: Decision | None = None

    def release(self) -> None:
        """Take back what a component without a name claims: it is not there, or not any more."""
        # One that has a name is planned again under it, and so not counted twice.
        if self.name is None and self.block and self.decision and self.decision.placed:
            self.block.release(self.decision.placed)

    def keep_while(self, made: object) -> None:
        """Claim what was planned for as long as the component is there, or until it is decided by its name."""
        if self.name is None and self.decision is not None and self.decision.placed is not None:
            _claims[id(made)] = claim = weakref.finalize(made, self._gone, id(made))
            claim.atexit = False

    def _gone(self, key: int) -> None:
        _claims.pop(key, None)
        self.release()


def fill(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], inside: str | None) -> Filled | None:
    """Return the arguments with which a component is made; `None` where no policy is in use, or another one decides.

    `inside` is the name of the component whose `__init__` is running.
    """
    from devpolicy._core.verbs.context import active_context

    block = active_context()
    if block is None:
        return None
    made = loading()
    if isinstance(made.callback, Decide):
        return None
    # Haystack has a name for the outer one alone.
    name = f"{inside}.{cls.__name__}" if inside is not None and made.name == inside else made.name
    left = Filled(name, args, kwargs)
    params = _bound(cls, args, kwargs)
    if params is None:
        return left
    takes, path, named = takes_of(cls, params), path_of(cls), Decider(block.policy, block).names(name)
    if isinstance(takes, TakesNone) or takes is None:
        # One without a parameter may still ask Haystack itself.
        if takes_any(takes) or (named and takes is not None):
            from devpolicy._core.verbs.context import emit_warnings

            emit_warnings([undecided(name, path, takes)], strict=False)
        return left
    if takes.form == "ours" or given_device(takes, params) is not None or (takes.form == "text" and not named):
        return left
    # The host is asked from here on, and not for components that run no model.
    by = Decider(block.effective, block)
    by.known = [one.name for one in saved_components(made.pipeline)] if made.pipeline is not None else ()
    decision = by.decision(name, path, takes, params)
    tell(decision)
    changed = written(takes, params, decision.device, decision.plan, decision.copies)
    return Filled(name, (), {**params, **changed}, block, decision)


def named_now(one: object) -> None:
    """Give back what a component claims that had no name: it is decided anew, by the name that it has now."""
    claim = _claims.get(id(one))
    if claim is not None:
        claim()


def _bound(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments by name; `None` where they have none, or are wrong, which the class says best itself."""
    signature = inspect.signature(vars(cls).get("__init__") or cls.__init__)  # type: ignore[misc]
    if any(one.kind in _POSITIONAL for one in list(signature.parameters.values())[1:]):
        return None
    try:
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:
        return None
    first, *names = signature.parameters
    del first
    values = {name: value for name in names if (value := bound.arguments.get(name, _bound)) is not _bound}
    for name in names:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD and name in values:
            values |= values.pop(name)
    return values


def default_of(cls: type | None, name: str | None) -> Any:
    """Return the device that the policy in use gives to whoever asks Haystack for the default; `None` without one."""
    from devpolicy._core.verbs.context import active_context
    from devpolicy._core.verbs.joint import Request

    block = active_context()
    if block is None:
        return None
    from haystack.utils.device import Device

    takes = row_of_class(cls, {}) or takes_of(cls, {}) if cls is not None else None
    target = takes.single.target if isinstance(takes, Takes) else ONE_DEVICE
    path = path_of(cls) if cls is not None else None
    decision = block.decide(Request(block.effective, name, component_class=path, target=target))
    tell(decision)
    return Device.from_str(decision.device.to_torch_str())
