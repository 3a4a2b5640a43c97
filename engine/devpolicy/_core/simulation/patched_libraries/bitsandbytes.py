"""bitsandbytes: the tensors that it makes once, on the device that asks first."""

from __future__ import annotations

from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.patched_libraries.constants import KeptDict

LIBRARY = Library(constants={"bitsandbytes.functional": {"name2qmap": KeptDict}})
