"""A whole run of pytest on one host, and its note on tests that never reached theirs.

Owns `--devpolicy-host`: the host is entered before anything is collected, since conditions of `skipif`, arguments of
`parametrize`, constants of modules and `require_…` decorators are evaluated then. Without it such a condition was
answered by the machine, whatever the test's mark says; a test that was skipped for it is named at the end of the run.
"""

from __future__ import annotations

from typing import Any

import pytest

from devpolicy._core.errors import DevPolicyError
from devpolicy.testing import simulate_host
from devpolicy.testing._marks import Asked, load, marked, short
from devpolicy.testing.plugin import SKIPPED_BEFORE


def enter(config: pytest.Config, name: str, depth: str, *, children: bool) -> Asked:
    """Put the process on a host until the run ends. Raises `pytest.UsageError` where that cannot be."""
    try:
        host = load(name, config.invocation_params.dir)
        simulation = simulate_host(host, depth=depth, scope="process", children=children)
        simulation.__enter__()
    except (DevPolicyError, ValueError) as refused:
        raise pytest.UsageError(f"--devpolicy-host: {refused}") from None
    config.add_cleanup(lambda: simulation.__exit__(None, None, None))
    return Asked(short(name), host, depth, children)


def skipped_before(item: pytest.Item, report: pytest.TestReport, *, entered: bool, of_run: Asked | None) -> str | None:
    """Return the options of a run on the host of a test that was skipped before it was there, else `None`."""
    if hasattr(report, "wasxfail") or not _is_conditional(item):
        return None
    if entered if report.when == "setup" else not getattr(_function(item), "__unittest_skip__", False):
        return None
    callspec = getattr(item, "callspec", None)
    asked = None if callspec is None else callspec.params.get("_devpolicy_simulation")
    host = asked or marked(item)[0]
    if of_run is not None and host.host == of_run.host:
        return None
    depth = "" if host.depth == "probes" else f" --devpolicy-depth {host.depth}"
    return f"--devpolicy-host {host.name}{depth}"


def _is_conditional(item: pytest.Item) -> bool:
    """Whether the skip may depend on the machine: a mark `skip` does not."""
    return item.get_closest_marker("skip") is None or item.get_closest_marker("skipif") is not None


def _function(item: pytest.Item) -> Any:
    return getattr(item, "function", None)


def tell(reporter: Any, skipped: list[pytest.TestReport], of_run: Asked | None) -> None:
    """Name the tests that were skipped before they were on their hosts."""
    where = f"the host `{of_run.name}`" if of_run else "this machine"
    reporter.section("simulated hosts")
    reporter.line(f"skipped before they were on their hosts, by a condition that was evaluated on {where}:")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reporter.line(f"  {report.nodeid}: {reason.removeprefix('Skipped: ')}")
    options = getattr(skipped[0], SKIPPED_BEFORE)
    reporter.line(f"ask inside the test, or run them with `{options}`, which comes before the conditions")
