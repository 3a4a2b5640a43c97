"""Streams and events of `torch.cuda` and `torch.xpu` where devices hold tensors.

A CPU build has classes of these names that cannot be made. What is made in their place are torch's own `Stream` and
`Event`, with the constructors and names of the types' classes. Work is done when its call returns: a stream orders
nothing, and the time between two events is what the CPU took.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from devpolicy._core.simulation.refusal import refusal
from devpolicy._core.simulation.running import running

HIGHEST_PRIORITY = -3
"""The last of the four priorities for which torch keeps streams of CUDA."""


@cache
def stream_class(type_: str) -> Any:
    """Return the class of a type's streams."""
    import torch

    # Under a simulation another class stands in the place of torch's; one that is made of it makes torch's own objects,
    # without what is defined here.
    base: Any = getattr(torch.Stream, "original", torch.Stream)
    priorities: dict[int, int] = {}

    class Stream(base):  # type: ignore[misc]
        """A stream of a simulated device."""

        def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
            if "stream_id" in kwargs:
                return super().__new__(cls, **kwargs)
            index = getattr(torch, type_)._utils._get_device_index(device, optional=True)
            made = super().__new__(cls, device=torch.device(type_, index), priority=priority)
            # By the stream's id: `current_stream()` makes another object of it.
            priorities[int(made.stream_id)] = max(min(priority, 0), HIGHEST_PRIORITY)
            return made

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        @property
        def cuda_stream(self) -> int:
            """The handle that a kernel would be launched with."""
            return int(self.stream_id)

        sycl_queue = cuda_stream

        @property
        def priority(self) -> int:
            """As it was asked for, within the range."""
            return priorities.get(int(self.stream_id), 0)

        @staticmethod
        def priority_range() -> tuple[int, int]:
            """Return the lowest and the highest priority."""
            return 0, HIGHEST_PRIORITY

        def record_event(self, event: Any = None) -> Any:
            """Record an event, a new one by default, and return it."""
            event = event_class(type_)() if event is None else event
            event.record(self)
            return event

    return Stream


@cache
def event_class(type_: str) -> Any:
    """Return the class of a type's events."""
    import torch

    original = getattr(torch.Event, "original", torch.Event)

    class Made(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

    class Event(metaclass=Made):
        """An event of a simulated device. What is made is of torch's own class: its methods take no subclass."""

        def __new__(
            cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
        ) -> Any:
            if interprocess:
                raise _refused(f"torch.{type_}.Event(interprocess=True)")
            return original(device=type_, enable_timing=enable_timing, blocking=blocking)

        @classmethod
        def from_ipc_handle(cls, device: Any, handle: bytes) -> Any:
            """Refuse: no other process can have given a handle."""
            raise _refused(f"torch.{type_}.Event.from_ipc_handle()")

    return Event


def _refused(what: str) -> Exception:
    simulation = running()
    assert simulation is not None  # INVARIANT: there are events on its devices
    return refusal(simulation, what)
