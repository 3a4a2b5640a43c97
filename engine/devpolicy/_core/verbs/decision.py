"""What a policy decides for one component, with all that a caller may want to show of it.

Owns `Decision`. Which policy is in use, and beside what a component is planned, is the matter of `context` and `joint`.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.layers import matching_entries
from devpolicy._core.placement.choice import choose
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.plan import Plan
from devpolicy._core.verbs.joint import JointPlanner, Planned, Request


@dataclass(frozen=True, slots=True)
class Decision:
    """The device of one component, and where it comes from."""

    device: ComponentDevice
    warnings: tuple[Diagnostic, ...]
    terms: tuple[tuple[str, str], ...]
    """What each term of `prefer` came to."""
    entries: tuple[str, ...]
    """The entries of the policy that apply to the component, the nearest first; empty where only its top does."""
    placed: Planned | None = None
    """The plan and what it was made of, where the size was known."""
    copies: tuple[ComponentDevice, ...] = ()
    """The devices of all replicas in order, where the policy asks for several and the size is known."""

    @property
    def plan(self) -> Plan | None:
        """The plan; `None` where only a device was chosen."""
        return None if self.placed is None else self.placed.plan


def decide(joint: JointPlanner, request: Request) -> Decision:
    """Plan a component beside others, which is kept; where nothing gives its size, choose a device.

    Raises as `JointPlanner.place` and `choose` do.
    """
    request = request.on(joint.host)
    entries = tuple(
        entry.name for entry in matching_entries(request.policy.components, request.component, request.component_class)
    )
    if request.has_size:
        group = joint.place_copies(request)
        placed = next((one for one in group if one.plan.component == request.component), group[0])
        plan = placed.plan
        copies = tuple(one.plan.component_device for one in group) if plan.component != request.component else ()
        terms = tuple(plan.trace.terms) if plan.trace else ()
        return Decision(plan.component_device, tuple(plan.warnings), terms, entries, placed, copies)
    reserved = reserved_bytes(one.plan for one in joint.placed)
    choice = choose(request.resolved, joint.host, target=request.target, reserved=reserved)
    return Decision(choice.device, choice.warnings, choice.terms, entries)
