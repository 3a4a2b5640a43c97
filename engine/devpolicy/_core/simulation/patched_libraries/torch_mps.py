"""`torch.mps` and `torch.backends.mps`: the one device of a Mac.

Owns its answers, and the versions of macOS that it asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import built_for, count, usable
from devpolicy._core.simulation.patched_libraries import Around, Library
from devpolicy._core.simulation.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation


def is_available(simulation: Simulation) -> bool:
    """Whether Metal has a device. Where Metal fails, torch returns false and does not raise."""
    return count(simulation, "mps") > 0 and not simulation.host.fault("mps")


def is_built(simulation: Simulation) -> bool:
    """Whether torch was built with MPS."""
    return built_for(simulation, "mps")


def device_count(simulation: Simulation) -> int:
    """Return 1 or 0."""
    return int(is_available(simulation))


def recommended_max_memory(simulation: Simulation) -> int:
    """Return the bytes that Metal recommends to use at most, which is what a host gives as the device's memory."""
    _require(simulation, "recommended_max_memory()")
    return usable(simulation, "mps", 0).memory


def is_macos_or_newer(simulation: Simulation, major: int, minor: int) -> bool:
    """Compare with the host's version of `macos`, and refuse where it gives none."""
    _require_macos(simulation)
    if not is_available(simulation):
        return False
    version = simulation.host.version("macos")
    if version is None:
        raise refusal(simulation, f"torch.backends.mps.is_macos_or_newer({major}, {minor})")
    known = [int(part) for part in version.split(".") if part.isdigit()]
    return (*known, 0, 0)[:2] >= (major, minor)


def is_macos13_or_newer(simulation: Simulation, minor: int = 0) -> bool:
    """Answer yes on a Mac: no torch that devpolicy supports uses Metal on an older one."""
    _require_macos(simulation)
    return is_available(simulation)


def get_name(simulation: Simulation) -> str:
    """Return the device's name."""
    _require(simulation, "get_name()")
    return usable(simulation, "mps", 0).name or ""


def nothing_allocated(simulation: Simulation) -> int:
    """Return 0: at this depth nothing is allocated."""
    _require(simulation, "current_allocated_memory()")
    return 0


def seeded(simulation: Simulation, seed: int) -> None:
    """Take any seed. torch asks for no device here."""
    int(seed)


def nothing_runs(simulation: Simulation) -> None:
    """Do what a device has done at once on which nothing runs, if there is such a device."""
    _require(simulation, "synchronize()")


def default_generator(simulation: Simulation, original: Callable[[], Any]) -> Any:
    """Refuse, where there is one: its state is the device's."""
    if is_available(simulation):
        raise refusal(simulation, "torch.mps.get_rng_state()")
    return original()


def _require_macos(simulation: Simulation) -> None:
    if simulation.host.os != "macos" and not is_built(simulation):
        raise RuntimeError("Cannot execute isOnMacOSorNewer() without MPS backend.")


def _require(simulation: Simulation, question: str) -> None:
    if not is_available(simulation):
        raise RuntimeError(simulation.host.fault("mps") or f"no mps device is available for `torch.mps.{question}`")


ANSWERS: dict[str, dict[str, Any]] = {
    "torch.backends.mps": {
        "get_name": get_name,
        "is_available": is_available,
        "is_built": is_built,
        "is_macos13_or_newer": is_macos13_or_newer,
        "is_macos_or_newer": is_macos_or_newer,
    },
    "torch.mps": {
        "_get_default_mps_generator": Around(default_generator),
        "current_allocated_memory": nothing_allocated,
        "device_count": device_count,
        "driver_allocated_memory": nothing_allocated,
        "empty_cache": nothing_runs,
        "is_available": is_available,
        "manual_seed": seeded,
        "recommended_max_memory": recommended_max_memory,
        "seed": nothing_runs,
        "synchronize": nothing_runs,
    },
}
LIBRARY = Library(answers=ANSWERS)
