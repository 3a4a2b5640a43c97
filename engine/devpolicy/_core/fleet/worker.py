"""What runs inside of an actor: it plans again on the devices that it sees, loads, and verifies what was loaded.

Owns the comparison of what was planned with what a process was given. Of Ray it uses the ids alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.fleet.plan import Recipe
from devpolicy._core.fleet.ray_forms import VISIBLE
from devpolicy._core.host import Host
from devpolicy._core.placement.plan import Plan
from devpolicy._core.public import public

_public = public("devpolicy.targets.ray")


@dataclass(frozen=True, slots=True)
class Order:
    """The instructions for a worker."""

    component: str | None
    node: str
    digest: str
    """The ordinal-free one of the plan."""
    devices: int
    """How many accelerators it uses."""
    recipe: Recipe


@_public
@dataclass(frozen=True, slots=True)
class Report:
    """What a worker found."""

    node: str
    """The node that was planned."""
    node_id: str
    """Ray's id of the one that it is on."""
    visible: tuple[int, ...]
    """The ordinals, on the whole node, of the devices that it sees."""
    digest: str
    """The ordinal-free digest of the plan that it made; empty where it could make none."""
    other_devices: str = ""
    """How what it sees differs from what was planned; nothing was loaded then."""
    differences: tuple[str, ...] = ()
    """Tensors of the loaded model that are elsewhere than planned."""
    verified: bool = False
    """Whether there was a model to verify."""


def plan_here(order: Order) -> tuple[Plan | None, tuple[int, ...], str, str]:
    """Return the plan on what this process sees, the ordinals of that, the digest, and what differs."""
    whole = order.recipe.host
    visible = _visible(whole) if order.devices else ()
    seen, here = whole.restrict(visible), Host.probe()
    wrong = _unlike(seen, here)
    try:
        plan = order.recipe.plan(order.component, visible)
    except DevPolicyError as refused:
        return None, visible, "", wrong or f"there is no plan on what it sees, {_names(here)}: {_first_line(refused)}"
    digest = plan.ordinal_free_digest
    if not wrong and digest != order.digest:
        wrong = f"on what it sees, {_names(here)}, another plan is made: its ordinal-free digest is {digest[:19]}"
    return (None if wrong else plan), visible, digest, wrong


def _visible(whole: Host) -> tuple[int, ...]:
    """Return the ordinals, on the whole node, of the devices that the variable shows, in their order."""
    setting = os.environ.get(VISIBLE)
    known = [one.id or 0 for one in whole.accelerators]
    if setting is None:
        return tuple(known)
    entries = [int(entry) for entry in setting.split(",") if re.fullmatch(r"\s*\d+\s*", entry)]
    return tuple(entry for entry in dict.fromkeys(entries) if entry in known)


def _unlike(planned: Host, here: Host) -> str:
    """Return how the devices that a process sees differ from those that were planned; empty where they do not."""

    def facts(host: Host) -> list[tuple[str, int, str | None]]:
        return [(one.type, one.memory, one.name) for one in host.accelerators]

    if facts(planned) == facts(here):
        return ""
    return f"it should see {_names(planned)}, and sees {_names(here)}"


def _names(host: Host) -> str:
    return ", ".join(one.name or one.type for one in host.accelerators) or "no accelerator"


def _first_line(error: DevPolicyError) -> str:
    return error.diagnostics[0].message if error.diagnostics else str(error)


def make(order: Order, load: Any, node_id: str) -> tuple[Any, Report]:
    """Plan again, load, verify. Return what was loaded, `None` where other devices are there, and the report."""
    plan, visible, digest, wrong = plan_here(order)
    report = Report(order.node, node_id, visible, digest, wrong)
    if plan is None:
        return None, report
    value = load(plan)
    # A model may have a part that is called so, too.
    candidates = (value, getattr(value, "model", None))
    model = next((one for one in candidates if callable(getattr(one, "named_parameters", None))), None)
    if model is None:
        return value, report
    return value, replace(report, differences=tuple(plan.verify(model)), verified=True)


class Worker:
    """The actor: what was loaded, and what is asked of it."""

    def __init__(self, order: Order, load: Callable[[Plan], Any]) -> None:
        import ray

        self._value, self._report = make(order, load, ray.get_runtime_context().get_node_id())

    def report(self) -> Report:
        """Return what was found."""
        return self._report

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of what was loaded; `__call__` by default is the thing itself."""
        return getattr(self._value, method)(*arguments, **named)

    def apply(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function makes of what was loaded."""
        return function(self._value, *arguments)
