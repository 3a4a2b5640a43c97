"""The handle of a simulated device for tests: what it holds, and which faults it has.

Owns the handle. A test reads bytes and counts from it that no library reports, and makes faults that no host file can
express, since they happen in the middle of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devpolicy._core.device.single import Device
from devpolicy._core.errors import HostError, SimulationDepthError
from devpolicy._core.simulation.running import running
from devpolicy._core.sizes import parse_size

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation
    from devpolicy._core.simulation.tensor_backend import TensorBackend

LAUNCH_FAILURE = "CUDA error: unspecified launch failure"


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """A device of the host that runs at depth `tensors` or `phantom`. Sizes are bytes."""

    type: str
    index: int
    _simulation: Simulation = field(repr=False)

    @property
    def allocated(self) -> int:
        """Bytes of the tensors that it holds now."""
        return self._figure("allocated")

    @property
    def peak(self) -> int:
        """The most that it held since it was entered, or since `reset_peak`."""
        return self._figure("peak")

    @property
    def capacity(self) -> int:
        """What it can hold: its memory, without what other processes have taken."""
        return self._figure("capacity")

    @property
    def allocations(self) -> int:
        """How many allocations it has made."""
        return self._figure("allocations")

    @property
    def operations(self) -> int:
        """How many operators have run on it, copies to it included."""
        return self._figure("operations")

    @property
    def operations_of_all(self) -> int:
        """How many operators have run on it in all processes of the host, where `children` are on it too."""
        return self._figure("operations_of_all")

    @property
    def received(self) -> int:
        """Bytes that were copied to it from elsewhere."""
        return self._figure("received")

    @property
    def sent(self) -> int:
        """Bytes that were copied from it to elsewhere."""
        return self._figure("sent")

    def reset_peak(self) -> None:
        """Let the peak begin at what is allocated now, as `torch.cuda.reset_peak_memory_stats` does."""
        self._backend.reset_peak(self.type, self.index)

    def fail_allocations(self, at_least: int | str | None) -> None:
        """Let every allocation of so many bytes (`"1 GiB"`) or more raise `OutOfMemoryError`; `None` ends that."""
        self._backend.refuse_from(self.type, self.index, None if at_least is None else parse_size(at_least))

    def fail_after(self, operations: int | None, message: str = LAUNCH_FAILURE) -> None:
        """Let so many operations succeed from here, and every later one raise `message`; `None` ends that.

        The error is `torch.AcceleratorError`, and all that follows fails too, as on a device whose context is lost.
        """
        self._backend.fail_after(self.type, self.index, operations, message)

    def take(self, size: int | str) -> None:
        """Let another process take so many bytes of what is left, from now on."""
        self._simulation.take(self.type, self.index, parse_size(size))

    @property
    def _backend(self) -> TensorBackend:
        backend = self._simulation.backend
        if backend is None or not self._simulation.open:
            raise SimulationDepthError(f"the simulated host of `{self.type}:{self.index}` was left")
        return backend

    def _figure(self, name: str) -> int:
        return self._backend.figures(self.type, self.index)[name]


def simulated_device(device: str) -> SimulatedDevice:
    """Return a device (`"cuda:1"`, `"mps"`) of the host that is simulated here at depth `tensors` or `phantom`.

    Raises `HostError` for a device that the host does not have, `SimulationDepthError` where no such host runs.
    """
    simulation = running()
    if simulation is None or simulation.backend is None:
        raise SimulationDepthError("no host is simulated here at depth `tensors` or `phantom`")
    named = Device.from_str(device)
    type_, index = str(named.type), named.id or 0
    if index not in simulation.devices(type_):
        raise HostError(f"the simulated host `{simulation.name}` has no device `{device}`")
    return SimulatedDevice(type_, index, simulation)
