"""Host spaces: every machine of some types of accelerators, counts and memories.

Owns how a space is described, its hosts in order, the smallest first, and each host's successors, which have one step
more memory. A list of memories makes a space finite; a range does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

from devpolicy._core.host import ACCELERATOR_TYPES, Accelerator, Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.sizes import GIB, TIB, exact_size

FINEST = 256 << 20
"""The step of a range of memories: plans take free memory down to a multiple of it."""

_ACCELERATORS = 4096
"""So many devices are kept: the hosts of a space have few that differ."""


class DeviceSpec(NamedTuple):
    """One accelerator: its type, and the positions of its memory and free percentage in the space's lists."""

    type: str
    memory: int
    free: int


class HostSpec(NamedTuple):
    """One host of a finite space, by positions in the space's lists."""

    devices: tuple[DeviceSpec, ...]
    ram: int


@dataclass(frozen=True)
class HostSpace:
    """Machines of up to `most` accelerators. Sizes are bytes, ascending; `free` are percentages, ascending."""

    types: tuple[str, ...] = ("cuda", "mps")
    most: int = 3
    memory: tuple[int, ...] = (8 * GIB, 24 * GIB, 80 * GIB)
    """The list, or with `ranged` the two ends of a range."""
    free: tuple[int, ...] = (25, 100)
    ram: tuple[int, ...] = (16 * GIB, 64 * GIB, 512 * GIB)
    disk: int = 4 * TIB
    mixed: bool = False
    """Whether a machine may have accelerators of several types."""
    ranged: bool = False

    @property
    def size(self) -> int | None:
        """How many hosts there are, `None` where memories are a range."""
        if self.ranged:
            return None
        kinds = len(self.memory) * len(self.free)
        racks: int = sum(kinds ** sum(counts) for counts in self._counts())
        return racks * len(self.ram)

    def _counts(self) -> Iterator[tuple[int, ...]]:
        """Yield how many devices of each type a host may have, beginning with none."""
        yield (0,) * len(self.types)
        for counts in product(*(range(self._most(kind) + 1) for kind in self.types)):
            several = sum(number > 0 for number in counts) > 1
            # A Mac has no other accelerators.
            mac = any(kind == "mps" and number for kind, number in zip(self.types, counts, strict=True))
            if 0 < sum(counts) <= self.most and (not several or (self.mixed and not mac)):
                yield counts

    def _most(self, kind: str) -> int:
        return min(self.most, 1) if kind == "mps" else self.most

    def specs(self) -> list[HostSpec]:
        """Return every host of a finite space: with fewer accelerators first, then with less memory in all."""
        devices = [self._device_specs(kind) for kind in self.types]
        racks = (
            sum(parts, ())
            for counts in self._counts()
            for parts in product(*(product(own, repeat=number) for own, number in zip(devices, counts, strict=True)))
        )
        found = (HostSpec(rack, ram) for rack in racks for ram in range(len(self.ram)))
        return sorted(found, key=self._rank)

    def _device_specs(self, kind: str) -> list[DeviceSpec]:
        return [DeviceSpec(kind, memory, free) for memory in range(len(self.memory)) for free in range(len(self.free))]

    def _rank(self, spec: HostSpec) -> tuple[object, ...]:
        # Of as much memory, all of it free is the simpler machine.
        taken = sum(len(self.free) - 1 - device.free for device in spec.devices)
        memory = sum(self.memory[device.memory] for device in spec.devices)
        return len(spec.devices), memory, spec.ram, taken, spec.devices

    def host(self, spec: HostSpec) -> Host:
        """Return the host that a spec describes."""
        ram = self.ram[spec.ram]
        devices: list[Accelerator] = []
        for device in spec.devices:
            sizes = self.memory[device.memory], self.free[device.free], ram
            ordinal = sum(one.type == device.type for one in devices)
            devices.append(accelerator(device.type, *sizes, ordinal))
        return machine(devices, ram, self.disk)

    def successors(self, spec: HostSpec) -> Iterator[HostSpec]:
        """Yield the hosts with one step more memory: a larger device, one with more free memory, or more RAM."""
        for at, device in enumerate(spec.devices):
            for larger in (
                device._replace(memory=device.memory + 1),
                device._replace(free=device.free + 1),
            ):
                if larger.memory < len(self.memory) and larger.free < len(self.free):
                    yield spec._replace(devices=(*spec.devices[:at], larger, *spec.devices[at + 1 :]))
        if spec.ram + 1 < len(self.ram):
            yield spec._replace(ram=spec.ram + 1)

    def __str__(self) -> str:
        join = ".." if self.ranged else ", "
        types = f"{' or '.join(self.types)}{', mixed too' if self.mixed else ''}"
        return (
            f"none to {self.most} accelerators of {types}; memory {join.join(map(exact_size, self.memory))}; "
            f"free {', '.join(f'{percent}%' for percent in self.free)}; RAM {', '.join(map(exact_size, self.ram))}"
        )


@lru_cache(_ACCELERATORS)
def accelerator(kind: str, memory: int, percent: int, ram: int, ordinal: int | None = None) -> Accelerator:
    """Return a device, otherwise like the catalogue's device of this type whose memory is nearest."""
    unified = kind == "mps"
    total = min(memory, ram) if unified else memory
    like = _like(kind, memory)
    made = Accelerator(kind, ordinal, memory=total, free=total * percent // 100, unified=unified)
    return made if like is None else replace(made, name=like.name, capability=like.capability)


def machine(devices: Sequence[Accelerator], ram: int, disk: int) -> Host:
    """Return a host with these devices, whose RAM and disk are free: a Mac where one of them is mps.

    It has the software of a host of the catalogue, so that conditions on versions do not depend on the space.
    """
    mac = any(device.type == "mps" for device in devices)
    system, processor = ("macos", "arm64") if mac else ("linux", "x86_64")
    versions = _software(devices[0].type if devices else None)
    return Host(devices, memory=ram, disk=disk, os=system, arch=processor, versions=versions)


@cache
def _software(kind: str | None) -> tuple[tuple[str, str], ...]:
    like = (host for host in _catalogue() if kind is not None and host.devices(kind))
    return next(like, Host.load("cpu-only")).versions


@cache
def _like(kind: str, memory: int) -> Accelerator | None:
    known = {one for host in _catalogue() for one in host.devices(kind) if not one.unified}
    return min(known, key=lambda one: (abs(one.memory - memory), one.memory, one.name or ""), default=None)


@cache
def _catalogue() -> tuple[Host, ...]:
    """Return the hosts of the catalogue that work."""
    return tuple(Host.load(name) for name in catalogue() if "/" not in name)


def types_in(text: str) -> tuple[str, ...]:
    """Return the types of accelerators that a policy's text mentions; the policy ignores all others."""
    return tuple(kind for kind in ACCELERATOR_TYPES if kind in text) or ("cuda",)
