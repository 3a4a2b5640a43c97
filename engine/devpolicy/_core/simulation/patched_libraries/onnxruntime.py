"""ONNX Runtime: which execution providers there are, and sessions on them.

Owns what the build for a simulated host would offer. A session computes on the CPU, whatever provider it is given; what
it says of its providers, warns about and falls back to is as on that host. Memory limits are not simulated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devpolicy._core.host.facts import is_amd
from devpolicy._core.simulation.build import count
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation

CPU = "CPUExecutionProvider"
_COLLECTION = "onnxruntime.capi.onnxruntime_inference_collection"
_NVIDIA, _AMD = ("TensorrtExecutionProvider", "CUDAExecutionProvider"), ("MIGraphXExecutionProvider",)
_OF_CUDA = frozenset((*_NVIDIA, *_AMD))
"""The providers that take one of several devices by its number."""


def get_available_providers(simulation: Simulation) -> list[str]:
    """Return the providers of the package that one installs on such a host, the first one's precedence highest."""
    host = simulation.host
    if count(simulation, "cuda"):
        return [*(_AMD if all(is_amd(one.name) for one in host.devices("cuda")) else _NVIDIA), CPU]
    if count(simulation, "xpu"):
        return ["OpenVINOExecutionProvider", CPU]
    if count(simulation, "mps"):
        return ["CoreMLExecutionProvider", "AzureExecutionProvider", CPU]
    return ["AzureExecutionProvider", CPU]


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return how a session is made: on the real CPU, with the simulated host's answer to what it was asked for."""

    def create(self: Any, providers: Any, provider_options: Any, disabled_optimizers: Any = None) -> None:
        simulation = running()
        if simulation is None:
            original(self, providers, provider_options, disabled_optimizers)
            return
        available = get_available_providers(simulation)
        asked = sys.modules[_COLLECTION].check_and_normalize_provider_args
        names, options = asked(providers, provider_options, available)
        given = [(name, of) for name, of in zip(names, options, strict=True) if name in available]
        if not names:
            given = [(name, {}) for name in available]
        self._fallback_providers = [CPU]
        for name, number in ((name, of.get("device_id", "0")) for name, of in given if name in _OF_CUDA):
            if not number.isdecimal() or int(number) >= count(simulation, "cuda"):
                raise RuntimeError(f"{name}: CUDA failure 101: invalid device ordinal: {number}")
        original(self, [CPU], None, disabled_optimizers)
        if CPU not in (name for name, _ in given):
            given.append((CPU, {}))
        self._providers = [name for name, _ in given]
        self._provider_options = {
            name: {"device_id": "0", **of} if name in _OF_CUDA else dict(of) for name, of in given
        }

    return create


LIBRARY = Library(
    answers={"onnxruntime.capi.onnxruntime_pybind11_state": {"get_available_providers": get_available_providers}},
    class_attributes={_COLLECTION: {"InferenceSession._create_inference_session": _create}},
)
