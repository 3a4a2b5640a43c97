"""Tests on devices that hold tensors: they run where the simulator is built, and say so where it is not."""

from __future__ import annotations

import pytest

from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import SimulationDepthError


@pytest.fixture(autouse=True, scope="session")
def simulator_is_built() -> None:
    try:
        require_built("tensors")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums of several threads differ in their last bits from run to run."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
