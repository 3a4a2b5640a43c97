"""The checks of this machine as pytest items: `pytest --devpolicy-real`.

Owns how the checks of `conformance` become tests. The machine is probed once, for all of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pytest

from devpolicy._core.conformance.check import hold
from devpolicy._core.host import Host
from devpolicy.testing.conformance import (
    DEVICE_CHECKS,
    HOST_CHECKS,
    MACHINE_CHECKS,
    Check,
    ConformanceError,
    Observed,
    observe,
)


class Machine(pytest.Collector):
    """This machine: a check for each property."""

    def collect(self) -> list[pytest.Item]:
        """Return the checks; the machine is asked when the first one runs."""
        checks: list[Check[Any]] = [*HOST_CHECKS, *MACHINE_CHECKS, *DEVICE_CHECKS]
        return [Property.from_parent(self, name=one.name, check=one) for one in checks]

    @cached_property
    def observed(self) -> Observed:
        """What two probes found."""
        return observe(Host.probe)


def _works(host: Host) -> bool:
    return any(one.fault is None and host.fault(one.type) is None for one in host.accelerators)


class Property(pytest.Item):
    """One property of this machine."""

    parent: Machine

    def __init__(self, *, check: Check[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def runtest(self) -> None:
        """Hold the machine against the property."""
        if not self.check.possible:
            pytest.skip(f"{self.check.library} is not installed")
        seen = self.parent.observed
        if self.check.of_devices and not _works(seen.host):
            pytest.skip("no accelerator that works was found here")
        hold([self.check], seen if self.check in HOST_CHECKS else seen.host, seen.host)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what was found instead of a traceback."""
        if isinstance(excinfo.value, ConformanceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, None, str]:
        """Name the property as a test of this machine."""
        return self.path, None, f"this machine: {self.check.claim}"
