"""What a policy decides for one component, with all that a caller may want to show of it.

Owns `Decision`. Which policy is in use, and beside what a component is planned, is the matter of `block` and `joint`.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.layers import speaking
from devpolicy._core.placement.choice import choose
from devpolicy._core.placement.joint import claims_of
from devpolicy._core.placement.plan import Plan
from devpolicy._core.verbs.joint import Joint, Placed, Request


@dataclass(frozen=True, slots=True)
class Decision:
    """The device of one component, and where it comes from."""

    device: ComponentDevice
    warnings: tuple[Diagnostic, ...]
    terms: tuple[tuple[str, str], ...]
    """What each term of `prefer` came to."""
    entries: tuple[str, ...]
    """The entries of the policy that apply to the component, the nearest first; empty where only its top does."""
    placed: Placed | None = None
    """The plan and what it was made of, where the size was known."""

    @property
    def plan(self) -> Plan | None:
        """The plan; `None` where only a device was chosen."""
        return None if self.placed is None else self.placed.plan


def decide(joint: Joint, request: Request) -> Decision:
    """Plan a component beside others, which is kept; where nothing gives its size, choose a device.

    Raises as `Joint.place` and `choose` do.
    """
    request = request.on(joint.host)
    component, cls = request.component, request.cls
    entries = tuple(entry.name for entry in speaking(request.policy, component, cls))
    if request.has_size:
        placed = joint.place(request)
        plan = placed.plan
        terms = tuple(plan.trace.terms) if plan.trace else ()
        return Decision(plan.device, tuple(plan.warnings), terms, entries, placed)
    claims = claims_of(one.plan for one in joint.placed)
    choice = choose(request.policy, joint.host, component=component, cls=cls, target=request.target, claims=claims)
    return Decision(choice.device, choice.warnings, choice.terms, entries)
