"""Hypothesis profiles, chosen by the variable `HYPOTHESIS_PROFILE`; the header of the run says which."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

from tests import skips

pytest_plugins = ["pytester"]
# Data, and a project with tests of its own, which tests/testing/test_acceptance.py runs.
collect_ignore = ["cases"]

# No deadline anywhere: a shared machine is slow at times, and how fast we are is what benchmarks/ measures.
# `ci` draws the same examples each time, so that a red run is about the change and not about luck.
settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
# For a run without libraries beside one with them: the same properties were tried there.
settings.register_profile("quick", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("dev", deadline=None, max_examples=200)
settings.register_profile("deep", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])

# Torch's threads in each of several workers wait for one another most of the time. Before torch is imported, and for
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What Transformers builds is built anew for each test: a folder of this user is neither read nor written.
os.environ["DEVPOLICY_MODEL_CACHE"] = "off"

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """Let no test be skipped in silence."""
    skips.register(config)


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """Leave what the modules before this one loaded out of every look for garbage.

    Libraries look as often as they load a checkpoint, and among all that is loaded it takes half a second.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Say which profile this run uses."""
    return f"hypothesis profile `{PROFILE}`: {settings.default.max_examples} examples for each property"
