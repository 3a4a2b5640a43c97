"""Which simulated host is running, for whoever asks.

Owns the simulations that are entered and not yet left: one for a context (a thread, a task), or one for the whole
process. It knows no library and no question: it only says which host answers here and now.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devpolicy._core.host.probe.visible import Gpu, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.simulation.tensor_backend import TensorBackend

DEFAULT_NAME = "unnamed"


class Simulation:
    """A host while it is simulated, with what changes meanwhile: current devices, what a neighbour took, caches.

    One is made for each entry, so nothing that happens in one is seen in another, or later.
    """

    __slots__ = (
        *("_asked", "_current", "_devices", "_lock", "_taken"),
        *("backend", "host", "memo", "more", "open", "outer", "owner", "probes", "restore", "whole"),
    )

    def __init__(self, host: Host, owner: object, outer: Simulation | None, *, probes: bool) -> None:
        self.host = host
        self.whole: Host | None = None
        """The host with all of its devices, where the process sees those that a variable names; else `None`."""
        self.probes = probes
        """Whether libraries see it; without, only devpolicy does."""
        self.owner = owner
        """The object that entered it, and that will leave it."""
        self.outer = outer
        """What ran in this context before."""
        self.open = True
        self.memo: dict[Any, dict[Any, Any]] = {}
        """What a library caches while this host runs, by the function or the state that caches."""
        self.more: Callable[[Simulation, str], None] | None = None
        """What replaces the names of one more layer until it is left; `None` where no library sees it."""
        self.restore: list[Any] = []
        """What to call when it is left."""
        self.backend: TensorBackend | None = None
        """The devices' memory, at the depths where they hold tensors."""
        self._current: threading.local | None = None
        self._devices: dict[str, dict[int, Accelerator]] | None = None
        self._asked: dict[tuple[str, int], int] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What messages call the host."""
        return self.host.name or DEFAULT_NAME

    def devices(self, type_: str) -> dict[int, Accelerator]:
        """Return the accelerators of a type by their ordinals; gaps are left out."""
        if self._devices is None:
            found: dict[str, dict[int, Accelerator]] = {}
            for device in self.host.accelerators:
                assert device.id is not None  # INVARIANT: a host sets the ids of its accelerators
                found.setdefault(device.type, {})[device.id] = device
            self._devices = found
        return self._devices.get(type_, {})

    def see_visible(self) -> None:
        """See of the whole host's GPUs those that `CUDA_VISIBLE_DEVICES` names now."""
        if self.whole is None:
            return
        setting, cuda = os.environ.get("CUDA_VISIBLE_DEVICES"), self.whole.devices("cuda")
        if setting is None:
            return
        shown = visible(setting, [Gpu(one.uuid or "") for one in cuda])
        seen = [replace(cuda[one.position], id=at, physical=one.position) for at, one in enumerate(shown)]
        others = [one for one in self.whole.accelerators if one.type != "cuda"]
        self.host = replace(self.whole, accelerators=(*seen, *others))
        self._devices = None

    def current(self, type_: str) -> int:
        """Return the current device of a type: as in torch, each thread has its own, and starts at 0."""
        if self.backend is not None:
            return self.backend.current(type_)
        current = self._current
        return 0 if current is None else current.__dict__.get(type_, 0)

    def set_current(self, type_: str, index: int) -> None:
        """Make a device current in this thread."""
        if self.backend is not None:
            self.backend.set_current(type_, index)
            return
        if self._current is None:
            with self._lock:
                self._current = self._current or threading.local()
        self._current.__dict__[type_] = index

    def free(self, device: Accelerator) -> int:
        """Return the bytes of a device that are free at this question; its neighbour takes some before the next."""
        assert device.id is not None  # INVARIANT: a host sets the ids of its accelerators
        place = (device.type, device.id)
        with self._lock:
            asked = self._asked.get(place, 0)
            if device.memory_pressure:
                self._asked[place] = asked + 1
            left = max(0, device.free - asked * device.memory_pressure - self._taken.get(place, 0))
        return left if self.backend is None else self.backend.free(*place, left)

    def need(self, layer: str) -> None:
        """Have names replaced, until this is left, which others do without."""
        if layer not in self.memo and self.more is not None:
            self.memo[layer] = {}
            self.more(self, layer)

    def take(self, type_: str, index: int, size: int) -> None:
        """Let another process take `size` bytes of a device, for as long as this runs."""
        with self._lock:
            self._taken[type_, index] = self._taken.get((type_, index), 0) + size
        self.free(self.devices(type_)[index])


# What a context runs; inside `paused` it is a simulation that is not open.
_of_context: ContextVar[Simulation | None] = ContextVar("devpolicy_simulation", default=None)
_of_process: list[Simulation] = []
_PAUSED: Any = object()


def running() -> Simulation | None:
    """Return the simulation that libraries see here: the innermost of this context, else the latest of the process."""
    found = _of_context.get()
    while found is not None:
        if found is _PAUSED:
            return None
        # One that is not open was left elsewhere (another thread, another task), or this context is a copy of its own.
        if found.open and found.probes:
            return found
        found = found.outer
    return next((each for each in reversed(_of_process) if each.probes), None) if _of_process else None


def running_for_us() -> Simulation | None:
    """Return the simulation that answers devpolicy here: of any depth."""
    found = _of_context.get()
    while found is not None:
        if found is _PAUSED:
            return None
        if found.open:
            return found
        found = found.outer
    return _of_process[-1] if _of_process else None


def was_entered_here(simulation: Simulation) -> bool:
    """Whether a simulation was entered in this context, or in the one that this was copied from."""
    found = _of_context.get()
    while found is not None and found is not _PAUSED and found is not simulation:
        found = found.outer
    return found is simulation


def begin(host: Host, owner: object, *, process: bool, probes: bool) -> Simulation:
    """Make a host answer from now on: in this context, and with `process` in every context that runs none itself."""
    outer = _of_context.get()
    simulation = Simulation(host, owner, None if outer is _PAUSED else outer, probes=probes)
    if process:
        _of_process.append(simulation)
    _of_context.set(simulation)
    return simulation


def end(owner: object, entered: list[Simulation]) -> Simulation:
    """Leave the simulation that `owner` entered last in this context, else the last of those that it `entered`.

    An event loop may run the two ends of a `with` in different contexts, so no token is kept.
    """
    here = _of_context.get()
    found = here if here is not None and here is not _PAUSED and here.open and here.owner is owner else entered[-1]
    entered.remove(found)
    found.open = False
    if found in _of_process:
        _of_process.remove(found)
    while here is not None and here is not _PAUSED and not here.open:
        here = here.outer
    _of_context.set(here)
    return found


@contextmanager
def paused() -> Iterator[None]:
    """Ask the real machine inside, in this context."""
    token = _of_context.set(_PAUSED)
    try:
        yield
    finally:
        _of_context.reset(token)
