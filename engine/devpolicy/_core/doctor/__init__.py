"""What each installed library reports about this machine, where the reports disagree, and how to fix it.

Owns `examine`. Each library is queried in a child process, since drivers hang and crash (`collect`, `library_probes`).
A pure function (`findings`) compares the reports (`library_report`) and looks up known faults (`suggestions`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.disk_cache import DiskCache, model_cache
from devpolicy._core.doctor.collect import collect
from devpolicy._core.doctor.findings import diagnose
from devpolicy._core.doctor.library_report import LIBRARIES
from devpolicy._core.host import Host

if TYPE_CHECKING:
    from collections.abc import Collection

    from devpolicy._core.doctor.library_report import LibraryReport
    from devpolicy._core.errors import Diagnostic

__all__ = ["LIBRARIES", "TIMEOUT", "VARIABLES", "Report", "examine"]

TIMEOUT = 60.0
"""Seconds that a library has to answer. Some import torch, from a cold disk and beside each other."""

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_TORCH_DEVICE",
    "HAYSTACK_MPS_ENABLED",
    "HAYSTACK_XPU_ENABLED",
    "DEVPOLICY",
)
"""Variables of the environment that change what is seen or chosen, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Report:
    """The reports of all libraries, and the findings."""

    host: Host
    """The machine as `Host.probe` sees it, or the simulated one."""
    libraries: tuple[LibraryReport, ...]
    """One for each library in the order of `LIBRARIES`, also for those that are not installed."""
    variables: tuple[tuple[str, str], ...]
    """Those of `VARIABLES` that are set."""
    findings: tuple[Diagnostic, ...]
    """Empty where all agree."""
    cache: DiskCache | None = None
    """Where models are kept that Transformers built; `None` of a simulated host."""


def examine(
    simulated: Host | None = None, *, libraries: Collection[str] = LIBRARIES, timeout: float = TIMEOUT
) -> Report:
    """Ask the installed ones of `libraries`, and this machine, and compare. Takes the seconds that imports take.

    `libraries` are some of `LIBRARIES`; with fewer there is less to compare. `simulated` is a host that they are
    asked about instead. `timeout`: seconds for each library; what does not answer by then is a finding. Raises nothing
    that a driver or a library raises.
    """
    reports = collect([name for name in LIBRARIES if name in libraries], simulated, timeout)
    host = Host.probe() if simulated is None else simulated
    # The variables of this machine say nothing of a simulated one's driver.
    variables = (
        () if simulated is not None else tuple((name, os.environ[name]) for name in VARIABLES if name in os.environ)
    )
    findings = tuple(diagnose(host, {one.library: one for one in reports}, dict(variables)))
    return Report(host, reports, variables, findings, model_cache() if simulated is None else None)
