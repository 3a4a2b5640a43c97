"""The simulated world: hosts that do not exist, and the tools to test policies on them.

    simulate_host       be on another machine, as a context manager or a decorator
    simulate_fleet      a Ray cluster on this machine, whose nodes are simulated hosts
    simulated_device    count and break what one of its devices does
    host_catalogue      the hosts that ship with devpolicy
    strategies          Hypothesis strategies (its own import)
    conformance         what every host obeys (its own import)

Nothing heavy is imported here: a name is looked up in its module when it is first used, since the pytest plugin
imports this package in every test run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devpolicy._core.simulation import SimulatedDevice, simulate_host, simulated_device
    from devpolicy._core.simulation.catalogue import host_catalogue
    from devpolicy._core.simulation.fleet import simulate_fleet

__all__ = ["SimulatedDevice", "host_catalogue", "simulate_fleet", "simulate_host", "simulated_device"]

_WHERE: dict[str, str] = {
    "SimulatedDevice": "devpolicy._core.simulation",
    "host_catalogue": "devpolicy._core.simulation.catalogue",
    "simulate_fleet": "devpolicy._core.simulation.fleet",
    "simulate_host": "devpolicy._core.simulation",
    "simulated_device": "devpolicy._core.simulation",
}
"""Public names by the module that holds them. Submodules, such as `strategies`, need no entry."""

_SUBMODULES = ("conformance", "strategies")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
