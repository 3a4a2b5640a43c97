"""The simulated world: hosts that do not exist, and the tools to test policies on them.

Nothing heavy is imported here: a name is looked up in its module when it is first used, since the pytest plugin
imports this package in every test run.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE: dict[str, str] = {
    "SimulatedDevice": "devpolicy.testing.simulation",
    "host_catalogue": "devpolicy.testing.catalogue",
    "simulate_host": "devpolicy.testing.simulation",
    "simulated_device": "devpolicy.testing.simulation",
}
"""Public names by the module that holds them. Submodules, such as `strategies`, need no entry."""

_SUBMODULES = ("simulation", "strategies")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_WHERE])
