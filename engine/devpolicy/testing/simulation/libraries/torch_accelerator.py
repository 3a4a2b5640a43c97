"""`torch.accelerator` and `torch.get_device_module`: the questions that name no type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy.testing.simulation.build import accelerator_type
from devpolicy.testing.simulation.libraries import Library, torch_devices, torch_mps
from devpolicy.testing.simulation.refusal import refusal

if TYPE_CHECKING:
    from devpolicy.testing.simulation.libraries import Answer
    from devpolicy.testing.simulation.running import Simulation

NONE = "Cannot access accelerator device when none is available."


def current_accelerator(simulation: Simulation, check_available: bool = False) -> Any:
    """Return the type that torch was built for, as a `torch.device` without an index, else `None`."""
    import torch

    type_ = accelerator_type(simulation)
    if type_ is None or (check_available and not is_available(simulation)):
        return None
    return torch.device(type_)


def device_count(simulation: Simulation) -> int:
    """Return how many devices of that type are counted."""
    return int(_asked("device_count", simulation, 0))


def is_available(simulation: Simulation) -> bool:
    """Whether there is one."""
    return bool(_asked("is_available", simulation, False))


def current_device_index(simulation: Simulation) -> int:
    """Return the current device of this thread."""
    type_ = _type(simulation)
    return simulation.current(type_) if type_ == "mps" else int(_asked("current_device", simulation, 0))


def set_device_index(simulation: Simulation, device: Any) -> None:
    """Make a device current in this thread."""
    if _type(simulation) != "mps":
        _asked("set_device", simulation, None, device)


def get_memory_info(simulation: Simulation, device: Any = None) -> tuple[int, int]:
    """Return free and total bytes. For mps versions of torch differ in whether they tell, so it is refused."""
    if _type(simulation) == "mps":
        raise refusal(simulation, "torch.accelerator.get_memory_info()")
    found: tuple[int, int] = _asked("mem_get_info", simulation, None, device)
    return found


def nothing_allocated(simulation: Simulation, device: Any = None) -> int:
    """Return 0: at this depth nothing is allocated."""
    _type(simulation)
    return 0


def nothing_to_do(simulation: Simulation, *ignored: Any) -> None:
    """Do nothing, as a device does on which nothing runs."""


def get_device_capability(simulation: Simulation, device: Any = None) -> Any:
    """Refuse: which dtypes a device supports is more than a host knows."""
    _type(simulation)
    raise refusal(simulation, "torch.accelerator.get_device_capability()")


def current_stream(simulation: Simulation, device: Any = None) -> Any:
    """Refuse: nothing runs, so there is no stream."""
    _type(simulation)
    raise refusal(simulation, "torch.accelerator.current_stream()")


def get_device_module(simulation: Simulation, device: Any = None) -> Any:
    """Return torch's module for a type, by default the accelerator's."""
    import torch

    if device is None:
        return getattr(torch, accelerator_type(simulation) or "cpu")
    type_ = torch.device(device).type
    return getattr(torch, type_)


def _type(simulation: Simulation) -> str:
    type_ = accelerator_type(simulation)
    if type_ is None:
        raise RuntimeError(NONE)
    return type_


def _asked(question: str, simulation: Simulation, otherwise: Any, *arguments: Any) -> Any:
    """Pass a question on to the accelerator's own module."""
    type_ = accelerator_type(simulation)
    if type_ is None:
        if otherwise is None:
            raise RuntimeError(NONE)
        return otherwise
    answers = torch_mps.ANSWERS["torch.mps"] if type_ == "mps" else torch_devices.ANSWERS[f"torch.{type_}"]
    return answers[question](simulation, *arguments)


ANSWERS: dict[str, dict[str, Answer]] = {
    "torch": {"get_device_module": get_device_module},
    "torch.accelerator": {
        "current_accelerator": current_accelerator,
        "current_device_idx": current_device_index,
        "current_device_index": current_device_index,
        "current_stream": current_stream,
        "device_count": device_count,
        "empty_cache": nothing_to_do,
        "get_device_capability": get_device_capability,
        "get_memory_info": get_memory_info,
        "is_available": is_available,
        "max_memory_allocated": nothing_allocated,
        "max_memory_reserved": nothing_allocated,
        "memory_allocated": nothing_allocated,
        "memory_reserved": nothing_allocated,
        "reset_peak_memory_stats": nothing_to_do,
        "set_device_idx": set_device_index,
        "set_device_index": set_device_index,
        "synchronize": nothing_to_do,
    },
}
LIBRARY = Library(answers=ANSWERS)
