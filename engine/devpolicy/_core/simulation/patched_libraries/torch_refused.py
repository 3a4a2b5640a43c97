"""What torch would do on a simulated device, and this depth does not: tensors, generators, streams, events.

For CUDA and XPU torch's C++ code asks `_lazy_init` before it makes a tensor, which is refused there. Generators and
streams do not ask, so their classes are replaced. Nothing asks for mps, nor for a type that is really initialised in
this process: where either is so, torch's own functions are watched in the thread that entered the simulation.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import accelerator_type, built_for
from devpolicy._core.simulation.patched_libraries import ORIGINAL, Around, Library
from devpolicy._core.simulation.patched_libraries.torch_devices import require
from devpolicy._core.simulation.patched_libraries.torch_streams import event_class, stream_class
from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import paused, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation

WATCHED = ("cuda", "mps", "xpu")


def refuse(simulation: Simulation, type_: str, what: str) -> None:
    """Raise what torch raises on such a host, or where it would have served, the refusal."""
    require(type_, simulation)
    raise refusal(simulation, what)


class _Guard(type):
    """The type of a class that replaces `original`: its instances are the original's."""

    original: type
    check: Callable[[Simulation, tuple[Any, ...], dict[str, Any]], None]
    held: Callable[[], Any] | None
    """Where devices hold tensors: the class that is made in its place, if its own cannot be made in a CPU build."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is not None and simulation.backend is not None:
            return (cls.held() if cls.held is not None else cls.original)(*args, **kwargs)
        if simulation is not None:
            cls.check(simulation, args, kwargs)
        return cls.original(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original) or (cls.held is not None and isinstance(instance, cls.held()))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.original)

    def __getattr__(cls, name: str) -> Any:
        simulation = running()
        held = cls.held is not None and simulation is not None and simulation.backend is not None
        return getattr(cls.held() if held and cls.held is not None else cls.original, name)


def _guarded(check: Callable[..., None], held: Callable[[], Any] | None, original: type) -> type:
    facts = {"original": original, "check": staticmethod(check), "__doc__": original.__doc__}
    facts["held"] = None if held is None else staticmethod(held)
    facts |= {"__module__": original.__module__, "__qualname__": original.__qualname__}
    return _Guard(original.__name__, (), facts)


def _type_of(device: Any) -> str | None:
    """Return the type of device that an argument names, `None` where it names none."""
    if isinstance(device, str):
        return device.partition(":")[0]
    type_ = getattr(device, "type", None)
    return type_ if isinstance(type_, str) else None


def _check_generator(simulation: Simulation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    type_ = _type_of(kwargs.get("device", args[0] if args else None))
    if type_ in WATCHED:
        refuse(simulation, type_, f'torch.Generator("{type_}")')


def _check_stream(what: str, type_: str | None, simulation: Simulation, args: Any, kwargs: Any) -> None:
    named = type_ or _type_of(kwargs.get("device", args[0] if args else None)) or accelerator_type(simulation)
    if named in WATCHED:
        refuse(simulation, named, f"{what}()")


def _streams(module: str, type_: str | None, *names: str) -> dict[str, Any]:
    return {
        name: partial(_guarded, partial(_check_stream, f"{module}.{name}", type_), _held_class(type_, name))
        for name in names
    }


def _held_class(type_: str | None, name: str) -> Callable[[], Any] | None:
    if type_ not in ("cuda", "xpu"):
        return None
    makers: dict[str, Callable[[str], Any]] = {"Stream": stream_class, "Event": event_class}
    return partial(makers[name], type_) if name in makers else partial(_refused_class, f"torch.{type_}.{name}")


@cache
def _refused_class(what: str) -> Any:
    """Return a class that cannot be made at any depth."""

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        simulation = running()
        assert simulation is not None  # INVARIANT: it is called under a simulation
        raise refusal(simulation, f"{what}()")

    return type(what.rpartition(".")[2], (), {"__new__": make})


@cache
def _watch_class() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        """Refuses tensors on devices for which torch's own code does not ask."""

        def __init__(self, types: list[str]) -> None:
            super().__init__()
            self.types = types

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            simulation = running()
            # A `torch.device` is a name, and makes nothing.
            if simulation is not None and func is not torch.device:
                for value in (*args, *(kwargs or {}).values()):
                    type_ = _type_of(value) if isinstance(value, str) or type(value).__name__ == "device" else None
                    if type_ in self.types:
                        refuse(simulation, type_, f"torch.{getattr(func, '__name__', func)}(…) on {value}")
            return func(*args, **(kwargs or {}))

    return Watch


def watch(simulation: Simulation) -> None:
    """Watch torch's functions in this thread, where tensors would be made without a question."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "overrides") or simulation.backend is not None:
        return
    types = _unasked(simulation, torch)
    if types:
        mode = _watch_class()(types)
        torch._C._push_on_torch_function_stack(mode)
        simulation.restore.append(partial(_unwatch, torch, mode))


def _unasked(simulation: Simulation, torch: Any) -> list[str]:
    """Return the types of whose tensors torch's own code would ask no one."""
    # The flags and not `is_initialized()`, which is asked of the simulated host.
    types = []
    if torch.cuda._initialized:
        types.append("cuda")
    if torch.xpu._initialized:
        types.append("xpu")
    if "mps" in map(_type, simulation.host.accelerators) or _mps_is_real():
        types.append("mps")
    return types


_type = attrgetter("type")


@cache
def _mps_is_real() -> bool:
    import torch

    with paused():
        return torch.backends.mps.is_available()


def _unwatch(torch: Any, mode: Any) -> None:
    """Take a mode off this thread's stack, at any position: tasks of one thread end in any order."""
    above = []
    while torch._C._len_torch_function_stack():
        top = torch._C._pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        torch._C._push_on_torch_function_stack(other)


OF_TYPE = {"_cuda_": "cuda", "_nccl_": "cuda", "_mps_": "mps", "_xpu_": "xpu"}
"""The types whose C half has names that begin so. A build of torch for another type lacks them."""


def _missing(simulation: Simulation, name: str) -> Any:
    """Return a function that refuses, for a name that torch's C half has on the host and not here."""
    type_ = next((type_ for prefix, type_ in OF_TYPE.items() if name.startswith(prefix)), None)
    if type_ is None or not built_for(simulation, type_):
        return None
    if name.endswith("_isInBadFork"):
        return bool  # a forked process goes on with a copy of the devices: it is False

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise refusal(simulation, f"torch._C.{name}()")

    return refused


def _pin_memory(simulation: Simulation, original: Any, data: Any, device: Any = None) -> Any:
    """Refuse to pin a batch of a `DataLoader`: memory is pinned by the driver of a device."""
    if accelerator_type(simulation) in ("cuda", "xpu"):
        raise refusal(simulation, "DataLoader(pin_memory=True)")
    return original(data, device)


LIBRARY = Library(
    answers={"torch.utils.data._utils.pin_memory": {"pin_memory": Around(_pin_memory)}},
    tensors={"torch.utils.data._utils.pin_memory": {"pin_memory": ORIGINAL}},
    missing={"torch._C": _missing},
    classes={
        "torch": {"Generator": partial(_guarded, _check_generator, None), **_streams("torch", None, "Stream", "Event")},
        "torch.cuda": _streams("torch.cuda", "cuda", "Stream", "Event", "ExternalStream", "CUDAGraph"),
        "torch.xpu": _streams("torch.xpu", "xpu", "Stream", "Event"),
        "torch.mps": _streams("torch.mps", "mps", "Event"),
    },
    entered=watch,
)
