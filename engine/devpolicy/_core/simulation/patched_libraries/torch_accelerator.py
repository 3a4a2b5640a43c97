"""`torch.accelerator` and `torch.get_device_module`: the questions that name no type.

Owns the choice of the one type that they are about. The answers are those of `torch_devices` and `torch_mps`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import accelerator_type
from devpolicy._core.simulation.patched_libraries import ORIGINAL, Around, Library, torch_devices, torch_mps
from devpolicy._core.simulation.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.patched_libraries import Answer
    from devpolicy._core.simulation.running import Simulation

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
    type_, index = _type(simulation), _index(simulation, device, optional=False)
    if type_ != "mps":
        _asked("set_device", simulation, None, index)


def get_memory_info(simulation: Simulation, device: Any = None) -> tuple[int, int]:
    """Return free and total bytes. It is refused for mps, where versions of torch differ in whether they answer."""
    if _type(simulation) == "mps":
        raise refusal(simulation, "torch.accelerator.get_memory_info()")
    found: tuple[int, int] = _asked("mem_get_info", simulation, None, _index(simulation, device))
    return found


def memory_stats(simulation: Simulation, device: Any = None) -> OrderedDict[str, Any]:
    """Return nothing, as torch does until something is allocated. Each figure that torch reads off this is 0."""
    _type(simulation)
    return OrderedDict()


def nothing_runs(simulation: Simulation, device: Any = None) -> None:
    """Do what a device has done at once on which nothing runs, if there is such a device."""
    type_, index = _type(simulation), _index(simulation, device)
    _asked("synchronize", simulation, None, *(() if type_ == "mps" else (index,)))


def _index(simulation: Simulation, device: Any, *, optional: bool = True) -> int:
    """Return the index that an argument names, which must be of the accelerator's type."""
    from torch.accelerator import _utils

    return int(_utils._get_device_index(device, optional=optional))


def get_device_capability(simulation: Simulation, device: Any = None) -> Any:
    """Refuse: a host does not describe which dtypes a device supports."""
    _type(simulation)
    raise refusal(simulation, "torch.accelerator.get_device_capability()")


class IdleStream:
    """The current stream of a device on which nothing runs.

    Optimizers ask whether it captures a graph, those of models on the CPU too.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def is_capturing(self) -> bool:
        """Answer no."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"a stream has no attribute {name!r}")
        raise refusal(self._simulation, f"torch.accelerator.current_stream().{name}")


def current_stream(simulation: Simulation, device: Any = None) -> IdleStream:
    """Return a stream that runs nothing."""
    _type(simulation)
    return IdleStream(simulation)


def exchange_device(simulation: Simulation, index: int) -> int:
    """Make a device current in this thread, and return the one that was."""
    before = current_device_index(simulation)
    set_device_index(simulation, index)
    return before


def get_device_module(simulation: Simulation, device: Any = None) -> Any:
    """Return torch's module for a type, by default the accelerator's."""
    import torch

    if device is None:
        return getattr(torch, accelerator_type(simulation) or "cpu")
    type_ = torch.device(device).type
    return getattr(torch, type_)


def set_default_device(simulation: Simulation, original: Callable[..., None], device: Any) -> None:
    """Change where tensors are made by default until the simulation ends: torch keeps it for the thread."""
    import torch

    if set_default_device not in simulation.memo:
        simulation.memo[set_default_device] = {}
        before = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        put_back = partial(original, None if before is None else before.device)
        simulation.restore.append(partial(_in_thread, threading.get_ident(), put_back))
    original(device)


def get_default_device(simulation: Simulation, original: Callable[[], Any]) -> Any:
    """Return it with its index, for which torch makes a tensor."""
    import torch
    from torch import overrides
    from torch.utils._device import DeviceContext

    stack: Any = overrides._get_current_function_mode_stack
    device = next((mode.device for mode in reversed(stack()) if isinstance(mode, DeviceContext)), None)
    if device is None or device.index is not None or device.type not in ("cuda", "mps", "xpu"):
        return original()
    torch_devices.require(device.type, simulation)
    return torch.device(device.type, simulation.current(device.type))


def _in_thread(thread: int, function: Callable[[], None]) -> None:
    if threading.get_ident() == thread:
        function()


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


ANSWERS: dict[str, dict[str, Answer | Around]] = {
    "torch": {
        "get_default_device": Around(get_default_device),
        "get_device_module": get_device_module,
        "set_default_device": Around(set_default_device),
    },
    # What `torch.accelerator.device_index` asks.
    "torch._C": {"_accelerator_exchangeDevice": exchange_device, "_accelerator_maybeExchangeDevice": exchange_device},
    "torch.accelerator": {
        "current_accelerator": current_accelerator,
        "current_device_idx": current_device_index,
        "current_device_index": current_device_index,
        "current_stream": current_stream,
        "device_count": device_count,
        "empty_cache": nothing_runs,
        "empty_host_cache": nothing_runs,
        "get_device_capability": get_device_capability,
        "get_memory_info": get_memory_info,
        "is_available": is_available,
        "memory_stats": memory_stats,
        "reset_accumulated_memory_stats": nothing_runs,
        "reset_peak_memory_stats": nothing_runs,
        "set_device_idx": set_device_index,
        "set_device_index": set_device_index,
        "synchronize": nothing_runs,
    },
}
LIBRARY = Library(
    answers=ANSWERS,
    tensors={"torch": {"get_default_device": ORIGINAL}, "torch._C": dict.fromkeys(ANSWERS["torch._C"], ORIGINAL)},
)
