"""thinc, which answers for spaCy: the constants that it took at its import, and its current backend.

thinc uses an NVIDIA GPU through CuPy and no other way: on a host with one, and without CuPy installed here, it has no
GPU, as it has none on such a machine. What asks for a GPU of any kind then asks for a Mac's.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import built_for, count
from devpolicy._core.simulation.patched_libraries import Around, Library
from devpolicy._core.simulation.patched_libraries.constants import flag
from devpolicy._core.simulation.patched_libraries.torch_mps import is_available as has_mps
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation

SYSTEMS = {"linux": "Linux", "macos": "Darwin", "windows": "Windows"}


def _has_cuda(simulation: Simulation) -> bool:
    return count(simulation, "cuda") > 0


def _has_cupy(simulation: Simulation) -> bool:
    return bool(_compat().has_cupy) and _has_cuda(simulation) and not simulation.host.fault("cuda")


def _has_gpu(simulation: Simulation) -> bool:
    return _has_cupy(simulation) or has_mps(simulation)


def _compat() -> Any:
    return sys.modules["thinc.compat"]


def as_bool(simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Return a plain truth value, that stays what it is when the simulation ends."""
    return bool(original(*args, **kwargs))


def set_active_gpu(simulation: Simulation, original: Callable[..., Any], gpu_id: int) -> Any:
    """Refuse where CuPy would take the device; elsewhere thinc raises its own error."""
    if _has_cupy(simulation):
        raise refusal(simulation, f"thinc.util.set_active_gpu({gpu_id})")
    return original(gpu_id)


def set_current_ops(simulation: Simulation, original: Callable[..., Any], ops: Any) -> None:
    """Change the backend until the simulation ends: thinc keeps it for the context and for the thread."""
    backends = sys.modules["thinc.backends"]
    state = backends._get_thread_state()
    if set_current_ops not in simulation.memo:
        simulation.memo[set_current_ops] = {}
        simulation.restore.append(
            partial(_put_back, backends.context_ops, backends.context_ops.get(), state, state.ops)
        )
    original(ops)


def _put_back(variable: Any, before: Any, state: Any, ops: Any) -> None:
    variable.set(before)
    state.ops = ops


class Platform:
    """The module `platform` as thinc sees it: the operating system is the simulated host's."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def system(self) -> str:
        """Return the operating system's name as `platform` writes it."""
        simulation = running()
        if simulation is None:
            return str(self._original.system())
        return SYSTEMS.get(simulation.host.os, "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


OF_ANY_GPU = frozenset({"gpu_is_available", "has_cupy_gpu", "has_gpu", "prefer_gpu", "set_active_gpu"})


def _layer_of(name: str) -> str | None:
    return "mps" if name in OF_ANY_GPU and not _compat().has_cupy else None


LIBRARY = Library(
    layer_of=_layer_of,
    answers={
        "thinc.backends": {"set_current_ops": Around(set_current_ops)},
        "thinc.util": {
            "gpu_is_available": Around(as_bool),
            "prefer_gpu": Around(as_bool),
            "set_active_gpu": Around(set_active_gpu),
        },
    },
    constants={
        "thinc.util": {
            "has_cupy_gpu": flag(_has_cupy),
            "has_gpu": flag(_has_gpu),
            "has_torch_cuda_gpu": flag(_has_cuda),
            "has_torch_mps": flag(lambda simulation: built_for(simulation, "mps")),
            "platform": Platform,
        },
        "thinc.*": {
            "has_cupy_gpu": flag(_has_cupy),
            "has_gpu": flag(_has_gpu),
            "has_torch_amp": flag(_has_cuda),
            "has_torch_cuda_gpu": flag(_has_cuda),
            "has_torch_gpu": flag(_has_cuda),
            "has_torch_mps": flag(lambda simulation: built_for(simulation, "mps")),
            "has_torch_mps_gpu": flag(has_mps),
        },
    },
)
