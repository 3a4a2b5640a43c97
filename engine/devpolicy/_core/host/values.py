"""One machine, as a frozen snapshot.

Owns `Host` and `Accelerator`: what a plan may know of hardware, and of the versions of its
software. They ask no machine (`devpolicy._core.host.probe` does), read no file and import no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from devpolicy._core.errors import HostError
from devpolicy._core.host.facts import (
    ACCELERATOR_TYPES,
    ARCHITECTURES,
    FAULT_SOURCES,
    MOST_DEVICES,
    SYSTEMS,
    Pairs,
    Size,
    Speeds,
    amounts,
    capability_pair,
    index,
    known_word,
    operations,
    optional_text,
    pairs_of_text,
    rate,
    shown,
    size,
    speeds,
)

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, slots=True, init=False)
class Accelerator:
    """One accelerator as this process sees it. `memory` and `free` are bytes, and `free` is at most `memory`.

    `id` is the ordinal that torch uses; inside a `Host` it defaults to the position among its type.
    A device with a `fault` is counted by the framework and cannot be used: nothing is planned on it.
    Sizes are given as bytes or as text with a unit; `free` defaults to `memory`. Raises `HostError`.
    """

    type: str
    id: int | None
    memory: int
    """What the driver gives as its total; on mps what Metal recommends to use at most."""
    free: int
    name: str | None
    capability: tuple[int, int] | None
    """CUDA's compute capability: (8, 9)."""
    unified: bool
    """Whether it shares one pool of memory with the CPU (Apple silicon, integrated GPUs). Always so on mps."""
    fault: str | None
    physical: int | None
    """The index that the driver gives it, before `CUDA_VISIBLE_DEVICES`."""
    uuid: str | None
    memory_pressure: int
    """Bytes that another process takes between one question for its free memory and the next; 0 on real machines.

    Only a simulation counts questions. A plan reads `free`.
    """
    bandwidth: int | None
    """Bytes per second that it reads from its memory; `None` where a prediction is to go by its name."""
    matmul_float32: int | None
    """Operations of large matrix products in float32 in a second; `None` where a prediction is to guess."""
    matmul_bfloat16: int | None
    matmul_float16: int | None

    def __init__(
        self,
        type: str,  # noqa: A002 - torch's word, as in torch.device("cuda").type
        id: int | None = None,  # noqa: A002 - the public word for a device's ordinal
        *,
        memory: Size,
        free: Size | None = None,
        name: str | None = None,
        capability: tuple[int, int] | None = None,
        unified: bool = False,
        fault: str | None = None,
        physical: int | None = None,
        uuid: str | None = None,
        memory_pressure: Size = 0,
        bandwidth: Size | None = None,
        matmul_float32: int | None = None,
        matmul_bfloat16: int | None = None,
        matmul_float16: int | None = None,
    ) -> None:
        kind = known_word(type, "type", ACCELERATOR_TYPES)
        ordinal = index(id, "id", MOST_DEVICES - 1)
        if kind == "mps" and ordinal:
            raise HostError(f"a host has one mps device, `mps:0`, not `mps:{ordinal}`")
        if not isinstance(unified, bool):
            raise HostError(f"`unified` is true or false, not {shown(unified)}")
        total, available = amounts(memory, free, "memory", "free")
        _set(
            self,
            type=kind,
            id=ordinal,
            memory=total,
            free=available,
            name=optional_text(name, "name"),
            capability=capability_pair(capability),
            unified=unified or kind == "mps",
            fault=optional_text(fault, "fault"),
            physical=index(physical, "physical", 2**31 - 1),
            uuid=optional_text(uuid, "uuid"),
            memory_pressure=size(memory_pressure, "memory_pressure"),
            bandwidth=rate(bandwidth, "bandwidth"),
            matmul_float32=operations(matmul_float32, "matmul_float32"),
            matmul_bfloat16=operations(matmul_bfloat16, "matmul_bfloat16"),
            matmul_float16=operations(matmul_float16, "matmul_float16"),
        )

    def at(self, ordinal: int) -> Accelerator:
        """Return the same device under another `id`."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return Accelerator(**{**facts, "id": ordinal})


@dataclass(frozen=True, slots=True, init=False)
class Host:
    """A machine: its accelerators, its memory and disk in bytes, its system and the versions of its software.

    `memory` and `free` are RAM, `disk` and `disk_free` the disk where offloaded weights would be written; each
    free figure is at most its total and defaults to it. Accelerators are kept by type and id, and their ids are
    set; ids may have gaps. `versions` and `faults` take a mapping or pairs. Raises `HostError`.
    """

    accelerators: tuple[Accelerator, ...]
    memory: int
    free: int
    disk: int
    disk_free: int
    os: str
    arch: str
    name: str | None
    versions: tuple[tuple[str, str], ...]
    """Versions of software by distribution name, with `python`, `driver` and `macos`, sorted."""
    faults: tuple[tuple[str, str], ...]
    """Types of accelerators, or sources such as `nvml`, that gave no answer, with the reason, sorted."""
    speed: tuple[tuple[str, int], ...]
    """What is known of its speed, sorted: bytes per second, nanoseconds, and operations per second (`matmul_...`).

    Predictions of time use them, with constants for what is missing.
    """
    measured: str | None
    """When the speeds were measured, `None` where they were not."""
    description: str | None = field(compare=False)
    """A sentence for people. It is no part of a host's identity."""

    def __init__(
        self,
        accelerators: Iterable[Accelerator] = (),
        *,
        memory: Size,
        free: Size | None = None,
        disk: Size = 0,
        disk_free: Size | None = None,
        os: str = "linux",
        arch: str = "x86_64",
        name: str | None = None,
        versions: Pairs = (),
        faults: Pairs = (),
        speed: Speeds = (),
        measured: str | None = None,
        description: str | None = None,
    ) -> None:
        total, available = amounts(memory, free, "memory", "free")
        space, room = amounts(disk, disk_free, "disk", "disk_free")
        _set(
            self,
            accelerators=_numbered(accelerators),
            memory=total,
            free=available,
            disk=space,
            disk_free=room,
            os=known_word(os, "os", SYSTEMS),
            arch=known_word(arch, "arch", ARCHITECTURES),
            name=optional_text(name, "name"),
            versions=pairs_of_text(versions, "versions"),
            faults=pairs_of_text(faults, "faults", FAULT_SOURCES),
            speed=speeds(speed),
            measured=optional_text(measured, "measured"),
            description=optional_text(description, "description"),
        )

    def devices(self, type: str) -> tuple[Accelerator, ...]:  # noqa: A002 - as in Accelerator
        """Return the accelerators of a type in the order of their ids, those with a fault too."""
        return tuple(accelerator for accelerator in self.accelerators if accelerator.type == type)

    def version(self, software: str) -> str | None:
        """Return the version of `software` (`"torch"`, `"python"`, `"driver"`), `None` where it is not known."""
        return next((version for name, version in self.versions if name == software), None)

    def fault(self, source: str) -> str | None:
        """Return why nothing of a type of accelerator can be used, or why a source gave no facts; else `None`."""
        return next((why for name, why in self.faults if name == source), None)

    def restrict(self, ids: Iterable[int], type: str | None = None) -> Host:  # noqa: A002 - as in Accelerator
        """Return the host as a process sees it to which only some accelerators of a type are visible.

        `ids` are ordinals, in the order in which they are visible: the first becomes `cuda:0`, as with
        `CUDA_VISIBLE_DEVICES`. `type` may be left out where the host has accelerators of one type. Those of other types
        stay. Raises `HostError` where there is no such device, or it is named twice.
        """
        types = list(dict.fromkeys(one.type for one in self.accelerators))
        chosen = _asked_ids(ids)
        if type is None and chosen and len(types) != 1:
            raise HostError(
                "`type` is needed, because ids belong to one type of accelerator: "
                f"the host has {' and '.join(types) or 'none'}"
            )
        kind = type or next(iter(types), None)
        known = {one.id: one for one in self.accelerators if one.type == kind}
        for number in chosen:
            if number not in known:
                there = ", ".join(map(str, known)) or "none"
                raise HostError(f"the host has no accelerator `{kind}:{number}`: there are {there}")
        if len(set(chosen)) < len(chosen):
            raise HostError("an accelerator is named twice")
        others = [one for one in self.accelerators if one.type != kind]
        return replace(self, accelerators=(*(known[number].at(place) for place, number in enumerate(chosen)), *others))

    # Facade methods: the readers, and `devpolicy._core.host.probe`, are imported when they are called.

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Host:
        """Return a host by catalogue name (`"2x24gb"`, `"faulty/ecc-on-query"`) or from a host TOML.

        Text with a separator or that ends in `.toml` is a path. A host without a name takes that of its file.
        Raises `HostError`; where there is no such host, with the likely name.
        """
        from devpolicy._core.host.catalogue import load

        return load(name)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> Host:
        """Read a host TOML. Raises `HostError` with every finding and its place."""
        from devpolicy._core.host.reader import parse

        return parse(text, source)

    def to_toml(self) -> str:
        """Return the host as TOML that `parse` reads back to an equal value. Equal hosts give equal text."""
        from devpolicy._core.host.writer import write

        return write(self)

    @classmethod
    def probe(cls, disk_path: str | PathLike[str] | None = None) -> Host:
        """Query this machine, once. No driver is initialised, and a source without an answer becomes a fault.

        `disk_path` names where offloaded weights would be written (it need not exist yet), by default the
        current folder. Costs milliseconds; seconds where only a child process can ask an accelerator's driver.
        """
        from devpolicy._core.host.probe import probe

        return probe(disk_path)


def _set(target: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(target, name, value)


def _asked_ids(ids: Iterable[int]) -> list[int]:
    """Return ordinals that a caller gives, each a whole number."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise HostError(f"`ids` takes ordinals, such as [0, 2], not {shown(ids)}")
    return [number for one in ids if (number := index(one, "ids", MOST_DEVICES - 1)) is not None]


def _numbered(accelerators: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """Give each accelerator its id, and keep them by type and id, so that equal machines are equal values."""
    try:
        given = list(accelerators)
    except TypeError:
        raise HostError(f"`accelerators` takes a list of them, not {shown(accelerators)}") from None
    seen: Counter[str] = Counter()
    placed: dict[tuple[int, int], Accelerator] = {}
    for entry in given:
        if not isinstance(entry, Accelerator):
            raise HostError(f"`accelerators` takes accelerators, not {shown(entry)}")
        ordinal = seen[entry.type] if entry.id is None else entry.id
        seen[entry.type] += 1
        if ordinal >= MOST_DEVICES or (entry.type == "mps" and ordinal):
            raise HostError(f"`{entry.type}` devices are more than a host can have")
        spot = (ACCELERATOR_TYPES.index(entry.type), ordinal)
        if spot in placed:
            raise HostError(f"two accelerators are `{entry.type}:{ordinal}`")
        placed[spot] = entry if entry.id == ordinal else entry.at(ordinal)
    return tuple(placed[spot] for spot in sorted(placed))
