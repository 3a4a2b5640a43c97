"""Several hosts at once: which node each component is planned on, and what changes when nodes come and go.

from devpolicy import Policy
from devpolicy.fleet import Fleet, plan_fleet

plan = plan_fleet(Policy.load("policy.toml"), {"writer": "llama-3.1-8b"}, Fleet.load("4-workstations"))
"""

from __future__ import annotations

from devpolicy._core.fleet.certificate import FleetCertificate
from devpolicy._core.fleet.changes import Move, moves
from devpolicy._core.fleet.plan import FleetPlan, NodePlan
from devpolicy._core.fleet.planner import plan_fleet
from devpolicy._core.fleet.values import Fleet

__all__ = ["Fleet", "FleetCertificate", "FleetPlan", "Move", "NodePlan", "moves", "plan_fleet"]


def __dir__() -> list[str]:
    return __all__
