"""The simulator: C++ that gives a CPU build of torch devices that hold tensors.

    native/        its source, which the wheel carries
    versions.py    which torch it is for, and why another is refused
    building.py    the compiler, the cache, and what is there
    loading.py     the built library in this process

`devpolicy simulator build` compiles it, once for each version of torch and Python. Nothing else ever does: a test run
that needs it and does not find it says so. `devpolicy._core.simulation` uses it for the depths `phantom` and
`tensors`, and knows nothing of compilers.
"""

from __future__ import annotations

from devpolicy._core.simulator.building import Built, Simulator, build, simulator
from devpolicy._core.simulator.loading import load
from devpolicy._core.simulator.versions import TESTED, Unfit, unfit

__all__ = ["TESTED", "Built", "Simulator", "Unfit", "build", "load", "simulator", "unfit"]
