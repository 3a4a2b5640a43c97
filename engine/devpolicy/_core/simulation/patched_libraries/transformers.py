"""transformers: what some of its modules took at their import.

Owns the constants that follow the host. Caches of its functions are found by `scan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.simulation.build import count
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.patched_libraries.constants import flag
from devpolicy._core.simulation.patched_libraries.torch_mps import is_available as has_mps

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation


def _has_xpu(simulation: Simulation) -> bool:
    return count(simulation, "xpu") > 0


LIBRARY = Library(
    constants={
        "transformers.masking_utils": {"_is_torch_xpu_available": flag(_has_xpu)},
        "transformers.integrations.fbgemm_fp8": {"_is_torch_xpu_available": flag(_has_xpu)},
        "transformers.integrations.sdpa_attention": {
            "_is_torch_xpu_available": flag(_has_xpu),
            "_is_torch_mps_available": flag(has_mps),
        },
    }
)
