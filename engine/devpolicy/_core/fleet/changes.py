"""What changes between two plans of fleets: what moves, what starts, what stops.

Owns `Move`. How a plan with few moves is made is `planner`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from devpolicy._core.fleet.assignment import unnamed
from devpolicy._core.fleet.plan import FleetPlan, NodePlan
from devpolicy._core.public import public


@public("devpolicy.fleet")
@dataclass(frozen=True, slots=True)
class Move:
    """One component, or one replica, that does not run as it did."""

    component: str
    """Its name in the new plan; of one that is gone, in the old."""
    source: str | None
    """The node that it leaves; `None` where it is new."""
    target: str | None
    """The node that it goes to; `None` where it is gone."""
    restarts: bool = False
    """Whether it stays on its node, on other devices or with other wishes."""

    def __str__(self) -> str:
        if self.restarts:
            return f"{self.component}: starts again on {self.source}"
        if self.source is None or self.target is None:
            return f"{self.component}: " + (f"starts on {self.target}" if self.target else f"stops on {self.source}")
        return f"{self.component}: {self.source} -> {self.target}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"component": self.component, "from": self.source, "to": self.target, "restarts": self.restarts}


@public("devpolicy.fleet")
def moves(before: FleetPlan, after: FleetPlan) -> tuple[Move, ...]:
    """Return what must be done to come from one plan to another, in the order of the new one."""
    return tuple(_moves(before, after))


def _moves(before: FleetPlan, after: FleetPlan) -> Iterator[Move]:
    old, new = _groups(before), _groups(after)
    for stem, copies in new.items():
        left = dict(old.pop(stem, {}))
        arriving: dict[str, NodePlan] = {}
        # Copies of one component are alike, whatever their numbers are.
        for name, one in copies.items():
            same = [at for at, other in left.items() if other.node == one.node]
            stays = next((at for at in same if unnamed(left[at].plan) == unnamed(one.plan)), None)
            if stays is None:
                arriving[name] = one
            else:
                del left[stays]
        for name, one in arriving.items():
            same = [at for at, other in left.items() if other.node == one.node]
            source = left.pop(next(iter(same or left))).node if left else None
            yield Move(name, source, one.node, restarts=source == one.node)
        yield from (Move(name, one.node, None) for name, one in left.items())
    for copies in old.values():
        yield from (Move(name, one.node, None) for name, one in copies.items())


def _groups(plan: FleetPlan) -> dict[str, dict[str, NodePlan]]:
    """Return the components, all replicas of one together."""
    found: dict[str, dict[str, NodePlan]] = {}
    for name, one in plan.components.items():
        stem, slash, number = name.rpartition("/")
        found.setdefault(stem if slash and number.isdecimal() and one.plan.component == name else name, {})[name] = one
    return found
