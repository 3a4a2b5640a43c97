"""Dry runs need the simulator and the libraries; where either is missing, tests say so."""

from __future__ import annotations

import pytest

from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import SimulationDepthError


@pytest.fixture(autouse=True, scope="session")
def simulator_is_built() -> None:
    for library in ("torch", "transformers", "accelerate"):
        pytest.importorskip(library)
    try:
        require_built("phantom")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))
