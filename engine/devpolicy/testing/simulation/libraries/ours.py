"""What devpolicy itself asks: the probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devpolicy.host import Host
    from devpolicy.testing.simulation.libraries import Answers
    from devpolicy.testing.simulation.running import Simulation


def probe(simulation: Simulation, disk_path: Any = None, *, timeout: float = 0.0) -> Host:
    """Return the host as it was given, with its own versions of software and not those that are installed here."""
    return simulation.host


ANSWERS: Answers = {"devpolicy.probe": {"probe": probe}}
