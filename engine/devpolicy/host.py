"""One machine, as a frozen snapshot.

Owns `Host` and `Accelerator`: what a plan may know of hardware, and of the versions of its
software. It asks no machine (`devpolicy.probe` does), reads no file (`devpolicy._host_file` does)
and imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devpolicy._tables import suggest
from devpolicy.errors import HostError
from devpolicy.sizes import SizeError, parse_size

if TYPE_CHECKING:
    from os import PathLike

ACCELERATOR_TYPES = ("cuda", "mps", "xpu", "npu", "hpu")

MOST_DEVICES = 128
"""torch keeps a device's index in a signed byte: ids are 0 to 127."""

SYSTEMS = ("linux", "macos", "windows", "other")
ARCHITECTURES = ("x86_64", "arm64", "ppc64le", "riscv64", "s390x", "other")
FAULT_SOURCES = (*ACCELERATOR_TYPES, "nvml", "torch", "psutil", "disk")
"""What a fault may be of: everything of a type of accelerator, or a source that was asked for facts."""

# The same thing under the names that uname, Windows and package tags give it.
_OTHER_NAMES = {"darwin": "macos", "win32": "windows", "amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}

Size = int | str
Pairs = Mapping[str, str] | Iterable[tuple[str, str]]


def normal_name(word: str) -> str:
    """Return a system or architecture under the name used here: `Darwin` is `macos`, `aarch64` is `arm64`."""
    return _OTHER_NAMES.get(word.lower(), word.lower())


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
    ) -> None:
        kind = _known(type, "type", ACCELERATOR_TYPES)
        ordinal = _index(id, "id", MOST_DEVICES - 1)
        if kind == "mps" and ordinal:
            raise HostError(f"a host has one mps device, `mps:0`, not `mps:{ordinal}`")
        if not isinstance(unified, bool):
            raise HostError(f"`unified` is true or false, not {_shown(unified)}")
        total, available = _amounts(memory, free, "memory", "free")
        _set(
            self,
            type=kind,
            id=ordinal,
            memory=total,
            free=available,
            name=_optional_text(name, "name"),
            capability=_capability(capability),
            unified=unified or kind == "mps",
            fault=_optional_text(fault, "fault"),
            physical=_index(physical, "physical", 2**31 - 1),
            uuid=_optional_text(uuid, "uuid"),
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
    """Versions of software by distribution name, with `python` and `driver`, sorted."""
    faults: tuple[tuple[str, str], ...]
    """What could not be asked, with the reason: a type of accelerator, or a source such as `nvml`, sorted."""
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
        description: str | None = None,
    ) -> None:
        total, available = _amounts(memory, free, "memory", "free")
        space, room = _amounts(disk, disk_free, "disk", "disk_free")
        _set(
            self,
            accelerators=_numbered(accelerators),
            memory=total,
            free=available,
            disk=space,
            disk_free=room,
            os=_known(os, "os", SYSTEMS),
            arch=_known(arch, "arch", ARCHITECTURES),
            name=_optional_text(name, "name"),
            versions=_pairs(versions, "versions"),
            faults=tuple((_known(source, "faults", FAULT_SOURCES), why) for source, why in _pairs(faults, "faults")),
            description=_optional_text(description, "description"),
        )

    def devices(self, type: str) -> tuple[Accelerator, ...]:  # noqa: A002 - as in Accelerator
        """Return the accelerators of a type in the order of their ids, those with a fault too."""
        return tuple(accelerator for accelerator in self.accelerators if accelerator.type == type)

    def version(self, software: str) -> str | None:
        """Return the version of `software` (`"torch"`, `"python"`, `"driver"`), `None` where it is not known."""
        return dict(self.versions).get(software)

    def fault(self, source: str) -> str | None:
        """Return why nothing of a type of accelerator can be used, or why a source gave no facts; else `None`."""
        return dict(self.faults).get(source)

    # Doors. Files and the real machine are read elsewhere, imported when asked for.

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Host:
        """Return a host by catalogue name (`"2x24gb"`, `"faulty/ecc-on-query"`) or from a host TOML.

        Text with a separator or that ends in `.toml` is a path. A host without a name takes that of its file.
        Raises `HostError`; where there is no such host, with the likely name.
        """
        from devpolicy._host_file import load

        return load(name)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> Host:
        """Read a host TOML. Raises `HostError` with every finding and its place."""
        from devpolicy._host_file import parse

        return parse(text, source)

    def to_toml(self) -> str:
        """Return the host as TOML that `parse` reads back to an equal value. Equal hosts give equal text."""
        from devpolicy._host_file import write

        return write(self)

    @classmethod
    def probe(cls, disk_path: str | PathLike[str] | None = None) -> Host:
        """Ask this machine, once. Nothing is initialised, and what cannot be asked becomes a fault.

        `disk_path` names where offloaded weights would be written (it need not exist yet), by default the
        current folder. Costs milliseconds; seconds where only a child process can ask an accelerator's driver.
        """
        from devpolicy.probe import probe

        return probe(disk_path)


def _set(target: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(target, name, value)


def _shown(value: object) -> str:
    # Of anything that is neither text nor a plain number the type says enough, and showing it might fail.
    if value is None or isinstance(value, str | bool | float):
        return f"`{value}`"
    return f"a value of type {type(value).__name__}"


def _known(word: object, key: str, known: tuple[str, ...]) -> str:
    if not isinstance(word, str):
        raise HostError(f"`{key}` is one of {', '.join(known)}, not {_shown(word)}")
    name = normal_name(word)
    if name not in known:
        close = suggest(name, known)
        way_out = f"did you mean `{close}`?" if close else f"known are {', '.join(known)}"
        raise HostError(f"`{word}` is no value of `{key}`: {way_out}")
    return name


def _amounts(total: Size, free: Size | None, total_key: str, free_key: str) -> tuple[int, int]:
    whole = _size(total, total_key)
    part = whole if free is None else _size(free, free_key)
    # INVARIANT: free <= total, everywhere; budgets are computed from either.
    if part > whole:
        raise HostError(f"`{free_key}` is larger than `{total_key}`: {part} of {whole} bytes")
    return whole, part


def _size(value: Size, key: str) -> int:
    try:
        return parse_size(value)
    except SizeError as broken:
        raise HostError(f"`{key}`: {broken}") from None


def _index(value: object, key: str, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise HostError(f"`{key}` is a whole number, not {_shown(value)}")
    if not 0 <= value <= most:
        raise HostError(f"`{key}` is between 0 and {most}")
    return value


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise HostError(f"`{key}` is text that is not empty, not {_shown(value)}")
    if not value.isascii():
        # Half of a surrogate pair can stand in a `str` and in no file.
        try:
            value.encode()
        except UnicodeEncodeError:
            raise HostError(f"`{key}` holds characters that cannot be written as UTF-8") from None
    return value


def _optional_text(value: object, key: str) -> str | None:
    return None if value is None else _text(value, key)


def _capability(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(type(part) is int and 0 <= part < 1000 for part in pair):
        raise HostError("`capability` is two whole numbers, such as (8, 9)")
    return pair


def _pairs(value: Pairs, key: str) -> tuple[tuple[str, str], ...]:
    try:
        pairs = [(name, text) for name, text in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise HostError(f"`{key}` takes a mapping, or pairs of text") from None
    result = tuple(sorted((_text(name, key), _text(text, key)) for name, text in pairs))
    for name, count in Counter(name for name, _ in result).items():
        if count > 1:
            raise HostError(f"`{key}` names `{name}` {count} times")
    return result


def _numbered(accelerators: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """Give each accelerator its id, and keep them by type and id, so that equal machines are equal values."""
    try:
        given = list(accelerators)
    except TypeError:
        raise HostError(f"`accelerators` takes a list of them, not {_shown(accelerators)}") from None
    seen: Counter[str] = Counter()
    placed: dict[tuple[int, int], Accelerator] = {}
    for entry in given:
        if not isinstance(entry, Accelerator):
            raise HostError(f"`accelerators` takes accelerators, not {_shown(entry)}")
        ordinal = seen[entry.type] if entry.id is None else entry.id
        seen[entry.type] += 1
        if ordinal >= MOST_DEVICES or (entry.type == "mps" and ordinal):
            raise HostError(f"`{entry.type}` devices are more than a host can have")
        spot = (ACCELERATOR_TYPES.index(entry.type), ordinal)
        if spot in placed:
            raise HostError(f"two accelerators are `{entry.type}:{ordinal}`")
        placed[spot] = entry if entry.id == ordinal else entry.at(ordinal)
    return tuple(placed[spot] for spot in sorted(placed))
