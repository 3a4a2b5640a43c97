"""A skip that no one has given a reason for fails the run.

Owns the reading of `skips.toml`. Outside of tox nothing is judged: a developer's environment may lack anything.
"""

from __future__ import annotations

import os
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

_ENTRIES = tomllib.loads(Path(__file__).with_name("skips.toml").read_text(encoding="utf-8"))["skip"]
_MISSING = re.compile(r"could not import '([^']*)'")


def allowed(reason: str, environment: str) -> bool:
    """Whether `skips.toml` lists this reason for this environment of tox."""
    missing = _MISSING.match(reason)
    return any(
        fnmatchcase(reason, entry["reason"])
        and any(fnmatchcase(environment, name) for name in entry["environments"])
        and (missing is None or any(fnmatchcase(missing[1], name) for name in entry.get("only", ["*"])))
        for entry in _ENTRIES
    )


def listed(reason: str) -> bool:
    """Whether `skips.toml` lists this reason for any environment."""
    return any(fnmatchcase(reason, entry["reason"]) for entry in _ENTRIES)


class Skips:
    """The pytest plugin: collects the reasons on the process that reports, and fails the run where one is unlisted."""

    def __init__(self, environment: str) -> None:
        self.environment = environment
        self.unlisted: dict[str, str] = {}

    def _judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
            return
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not allowed(reason, self.environment):
            self.unlisted.setdefault(reason, report.nodeid)

    pytest_runtest_logreport = pytest_collectreport = _judge

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted:
            terminalreporter.section("skips without a reason in tests/skips.toml", red=True)
            for reason, test in self.unlisted.items():
                terminalreporter.line(f"{test}: {reason}")


def register(config: pytest.Config) -> None:
    """Judge the skips of this run if tox started it; the workers of pytest-xdist report to the one that does."""
    environment = os.environ.get("TOX_ENV_NAME")
    if environment and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(environment), "devpolicy-skips")
