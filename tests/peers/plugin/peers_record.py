"""A pytest plugin that writes what became of each test, and how many operations ran on simulated devices meanwhile.

`run.py` loads it into other projects' suites. Operations of child processes count too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

RESULTS: dict[str, dict[str, Any]] = {}
TARGET = "DEVPOLICY_PEERS"


def _operations() -> dict[str, int]:
    """Return how many operations have run on each of the host's devices, nothing on this machine."""
    from devpolicy._core.simulation import simulated_host
    from devpolicy.testing import simulated_device

    host = simulated_host()
    devices = [] if host is None else [f"{each.type}:{each.id}" for each in host.accelerators]
    return {device: simulated_device(device).operations_of_all for device in devices}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    before = _operations()
    done = yield
    after = _operations()
    RESULTS.setdefault(item.nodeid, {})["operations"] = {device: after[device] - before[device] for device in before}
    return done


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    result = RESULTS.setdefault(report.nodeid, {"outcome": "passed", "why": ""})
    result.setdefault("outcome", "passed")
    if report.outcome != "passed" and result["outcome"] != "failed":
        result["outcome"] = report.outcome
        if isinstance(report.longrepr, tuple):
            result["why"] = report.longrepr[2].removeprefix("Skipped: ")
        else:
            result["why"] = str(getattr(report.longrepr, "reprcrash", report.longrepr) or "").splitlines()[0]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed":
        RESULTS[report.nodeid] = {"outcome": report.outcome, "why": str(report.longrepr).splitlines()[-1]}


def pytest_sessionfinish() -> None:
    Path(os.environ[TARGET]).write_text(json.dumps(RESULTS, indent=1), encoding="utf-8")
