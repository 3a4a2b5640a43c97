"""What each installed library sees of this machine, where they disagree, and the remedy.

Owns `examine`. Libraries are asked in child processes, since drivers hang and crash (`asking`, `questions`); what they
told is judged by a pure function (`findings`) with a table of known faults (`remedies`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.doctor.asking import ask_all
from devpolicy._core.doctor.findings import judge
from devpolicy._core.doctor.told import LIBRARIES
from devpolicy._core.host import Host

if TYPE_CHECKING:
    from collections.abc import Collection

    from devpolicy._core.doctor.told import Told
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
    """What was seen, and what is wrong with it."""

    host: Host
    """The machine as `Host.probe` sees it, or the simulated one."""
    told: tuple[Told, ...]
    """What each library said, in the order in which they are asked, those that are not installed too."""
    variables: tuple[tuple[str, str], ...]
    """Those of `VARIABLES` that are set."""
    findings: tuple[Diagnostic, ...]
    """Empty where all agree."""


def examine(
    simulated: Host | None = None, *, libraries: Collection[str] = LIBRARIES, timeout: float = TIMEOUT
) -> Report:
    """Ask the installed ones of `libraries`, and this machine, and compare. Takes the seconds that imports take.

    `libraries` are some of `told.LIBRARIES`; with fewer there is less to compare. `simulated` is a host that they are
    asked about instead. `timeout`: seconds for each library; what does not answer by then is a finding. Raises nothing
    that a driver or a library raises.
    """
    told = ask_all([name for name in LIBRARIES if name in libraries], simulated, timeout)
    host = Host.probe() if simulated is None else simulated
    # The variables of this machine say nothing of a simulated one's driver.
    variables = (
        () if simulated is not None else tuple((name, os.environ[name]) for name in VARIABLES if name in os.environ)
    )
    return Report(host, told, variables, tuple(judge(host, {one.library: one for one in told}, dict(variables))))
