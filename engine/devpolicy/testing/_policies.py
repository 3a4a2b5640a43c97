"""The tests of policies as pytest items: `pytest policy/`.

Owns how a file of tests becomes a collector and a test an item. It is imported once pytest meets such a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.review.bind_test import BoundTest
from devpolicy._core.review.run import Result, run_case
from devpolicy._core.review.suites import gather


class PolicyFailure(Exception):  # noqa: N818 - it says what a test found, as an assertion does
    """What failed, as text."""


class PolicyFile(pytest.File):
    """A policy with tests, or a file of tests."""

    def collect(self) -> Iterable[pytest.Item]:
        """Return a test for each `[[test]]`. A file that cannot be read is an error of the collection."""
        try:
            suites = gather([str(self.path)], beside=False)
        except DevPolicyError as refused:
            raise self.CollectError(str(refused)) from None
        return [PolicyTest.from_parent(self, name=bound.test.name, bound=bound) for bound in suites[0].tests]


class PolicyTest(pytest.Item):
    """One `[[test]]`, on all of its hosts."""

    __test__ = False  # pytest collects it from policies, and not from where it is imported

    def __init__(self, *, bound: BoundTest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bound = bound

    def runtest(self) -> None:
        """Run the test on each host, and fail with everything that is not so."""
        test = self.bound.test
        cases = tuple(run_case(self.bound, variant) for variant in self.bound.variants)
        result = Result(str(self.path), test.name, test.place, cases)
        if not result.passed:
            raise PolicyFailure("\n\n".join(finding.render() for finding in result.findings))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what failed instead of a traceback."""
        if isinstance(excinfo.value, PolicyFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Name the line of the policy and the test."""
        place = self.bound.test.place
        return self.path, place.line - 1 if place else None, f"policy test: {self.name}"
