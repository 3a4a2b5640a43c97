"""Devices that hold tensors: the simulator, opened for one host.

Owns what the two deep depths add to a simulation: a ledger for each device, in C++, where torch's own code finds it.
One host at a time is open in a process, since torch's devices are the process's: one inside another has it wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import SimulationDepthError
from devpolicy._core.simulation.build import NOT_USABLE, accelerator_type, count
from devpolicy._core.simulation.gpus import torch_config
from devpolicy._core.simulator.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devpolicy._core.simulation.running import Simulation

KINDS = {"cuda": 0, "mps": 1, "xpu": 2}
"""The types of device that are simulated, with their places in the simulator's tables."""

_Row = tuple[int, int, int, int, str, int]


class TensorBackend:
    """The devices of one simulation, while it runs."""

    def __init__(self, simulation: Simulation, depth: str, shared: str | None = None) -> None:
        self.depth = depth
        self._native: Any = load(depth)
        if self._native.is_open():
            raise SimulationDepthError(
                f"at depth `{depth}` one host runs at a time in a process, since its devices are torch's own: another "
                "one runs, which was not entered here"
            )
        taken_as = accelerator_type(simulation)
        rows, config = list(self._rows(simulation)), torch_config(simulation)
        self._waiting: Any = None
        self._open = True
        kind = KINDS.get(taken_as or "", -1)
        self._native.open(rows, depth == "phantom", kind, config, shared or "")

    def _rows(self, simulation: Simulation) -> Iterator[_Row]:
        for type_, kind in KINDS.items():
            devices = simulation.devices(type_)
            counted = 0 if simulation.host.fault(type_) else count(simulation, type_)
            if counted > self._native.MOST_DEVICES:
                most = self._native.MOST_DEVICES
                raise SimulationDepthError(f"at depth `{self.depth}` a host has at most {most} devices of a type")
            for index in range(counted):
                device = devices.get(index)
                if device is None:
                    # A gap in the ids: the framework counts it, and its driver refuses.
                    yield kind, index, 0, 0, f"{type_.upper()} error: {NOT_USABLE}", 0
                else:
                    major, minor = device.capability or (0, 0)
                    yield kind, index, device.memory, device.free, device.fault or "", 10 * major + minor

    def close(self) -> None:
        """End it. Tensors that are kept are paid back to a ledger that nobody reads."""
        self._open = False
        if self._waiting is None:
            self._native.close()

    def suspend(self) -> None:
        """Let another host be torch's meanwhile. Nothing of this one is lost."""
        current = {type_: self.current(type_) for type_ in KINDS}
        self._waiting = self._native.suspend(), current

    def resume(self) -> None:
        """Be torch's again, unless it was left meanwhile."""
        (world, current), self._waiting = self._waiting, None
        self._native.resume(world)
        if not self._open:
            self._native.close()
            return
        for type_, index in current.items():
            if index:
                self.set_current(type_, index)

    def start_engine(self) -> None:
        """Let autograd have a thread for each device."""
        self._native.start_engine()

    def current(self, type_: str) -> int:
        """Return this thread's current device."""
        return int(self._native.current(KINDS[type_]))

    def set_current(self, type_: str, index: int) -> None:
        """Make a device current in this thread."""
        self._native.set_current(KINDS[type_], index)

    def free(self, type_: str, index: int, capacity: int) -> int:
        """Return the bytes that are free of what other processes leave, which may have changed."""
        self._native.set_capacity(KINDS[type_], index, capacity)
        figures = self.figures(type_, index)
        return max(0, capacity - figures["allocated"] - figures["others"])

    def figures(self, type_: str, index: int) -> dict[str, int]:
        """Return a ledger's figures: bytes, counts of allocations and operations, bytes received and sent."""
        found: dict[str, int] = self._native.figures(KINDS[type_], index)
        return found

    def reset_peak(self, type_: str, index: int) -> None:
        """Let the peak begin at what is allocated now."""
        self._native.reset_peak(KINDS[type_], index)

    def refuse_from(self, type_: str, index: int, size: int | None) -> None:
        """Let allocations of `size` bytes and more fail; `None` for none."""
        self._native.refuse_from(KINDS[type_], index, -1 if size is None else size)

    def fail_after(self, type_: str, index: int, operations: int | None, message: str) -> None:
        """Let everything fail after so many operations; `None` for nothing."""
        self._native.fail_after(KINDS[type_], index, -1 if operations is None else operations, message)

    def allow(self, type_: str, index: int, size: int) -> None:
        """Let this process hold at most `size` bytes, whatever is free."""
        self._native.allow(KINDS[type_], index, size)

    def synchronize(self, type_: str, index: int) -> None:
        """Wait for nothing, and raise where the device's context is lost."""
        self._native.synchronize(KINDS[type_], index)

    def sync_debug(self) -> int:
        """Return what a call that waits for a device does: 0 nothing, 1 warns, 2 raises."""
        return int(self._native.sync_debug())

    def set_sync_debug(self, mode: int) -> None:
        """Change that."""
        self._native.set_sync_debug(mode)

    def resize_storage(self, storage: Any, size: int) -> None:
        """Give a storage `size` bytes; what it held is kept as far as it fits."""
        self._native.resize_storage(storage, size)

    def why_not_attention(self, backend: int, query: Any, key: Any, value: Any, mask: Any) -> str:
        """Return why CUDA does not take a backend of attention for these tensors, empty where it does."""
        return str(self._native.why_not(backend, query, key, value, mask))

    def default_generator(self, type_: str, index: int) -> Any:
        """Return a device's default `torch.Generator`."""
        return self._native.default_generator(KINDS[type_], index)

    def current_stream(self, type_: str, index: int) -> int:
        """Return the id of this thread's current stream on a device."""
        return int(self._native.current_stream(KINDS[type_], index))

    def set_stream(self, type_: str, index: int, stream: int) -> None:
        """Make a stream current, and its device."""
        self._native.set_stream(KINDS[type_], index, stream)
