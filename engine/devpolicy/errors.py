"""The errors that devpolicy raises on purpose, and the findings that they carry."""

from __future__ import annotations

from devpolicy._core.errors import (
    DeviceError,
    DevPolicyError,
    DevPolicyWarning,
    Diagnostic,
    FleetError,
    HostError,
    MissingLibraryError,
    ModelError,
    Place,
    PolicyError,
    SimulationDepthError,
    UnknownModuleError,
    Unsatisfiable,
)

__all__ = [
    "DevPolicyError",
    "DevPolicyWarning",
    "DeviceError",
    "Diagnostic",
    "FleetError",
    "HostError",
    "MissingLibraryError",
    "ModelError",
    "Place",
    "PolicyError",
    "SimulationDepthError",
    "UnknownModuleError",
    "Unsatisfiable",
]


def __dir__() -> list[str]:
    return __all__
