"""What every host obeys, wherever it comes from: a file, a strategy, a simulation, the real machine.

The properties are public data, and the same ones run on simulated and on real devices: which of the two they are
asked about, they cannot tell.

    check_host(lambda: Host.load("rig.toml"))      # whatever makes a host
    check_host(Host.probe)                         # this machine
    check_machine(Host.probe())                    # what the libraries say here is what the host says
    check_devices(Host.probe())                    # and what its devices do with tensors
    check_target(target)                           # a consumer of plans, such as a package of yours adds

    check.py      a property, and what is raised where some do not hold
    hosts.py      the properties of a source of hosts
    targets.py    what a target of plans claims, against the plans and forms that it gets
    machine.py    what the libraries of this process say, against a host
    devices.py    what its devices do with tensors
"""

from __future__ import annotations

from devpolicy._core.conformance.check import Check, ConformanceError
from devpolicy._core.conformance.devices import DEVICE_CHECKS, check_devices
from devpolicy._core.conformance.hosts import HOST_CHECKS, Observed, check_host, observe
from devpolicy._core.conformance.machine import MACHINE_CHECKS, check_machine
from devpolicy._core.conformance.targets import TARGET_CHECKS, Tried, check_target, try_target

__all__ = [
    "DEVICE_CHECKS",
    "HOST_CHECKS",
    "MACHINE_CHECKS",
    "TARGET_CHECKS",
    "Check",
    "ConformanceError",
    "Observed",
    "Tried",
    "check_devices",
    "check_host",
    "check_machine",
    "check_target",
    "observe",
    "try_target",
]
