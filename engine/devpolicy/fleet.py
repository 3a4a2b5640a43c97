"""Several hosts at once: which node each component is planned on, and what changes when nodes come and go.

from devpolicy import Policy
from devpolicy.fleet import Fleet, plan_fleet

plan = plan_fleet(Policy.load("policy.toml"), {"writer": "llama-3.1-8b"}, Fleet.load("4-workstations"))
"""

from __future__ import annotations

from devpolicy._core.fleet.values import Fleet

__all__ = ["Fleet"]


def __dir__() -> list[str]:
    return __all__
