"""Classes of accelerators: what `[devices.NAME]` defines, and what a condition on a type of device asks for.

Owns the value, its reading, and which accelerators belong to it. It depends neither on a policy nor on where a class
may be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from devpolicy._core.device import LARGEST_ID
from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy._core.language.comparisons import CAPABILITY_TEST, LEAST_SIZE, CapabilityTest, SizeTest
from devpolicy._core.sizes import format_size
from devpolicy._core.toml.tables import TEXT, Cursor, Kind, choice, integer, key, list_of, read_as, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.host import Accelerator
    from devpolicy._core.language.merging import ConfigLayer

NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
"""What a class may be called, as a regular expression."""
RESERVED = (*ACCELERATOR_TYPES, "cpu", "disk")


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Accelerators of one type that pass every test that is given."""

    name: str
    type: str
    id: tuple[int, ...] = ()
    called: tuple[str, ...] = ()
    """Globs of device names, as the driver reports them. Any one of them matches."""
    memory: SizeTest | None = None
    free: SizeTest | None = None
    capability: CapabilityTest | None = None
    count: int = 0
    """How many a term needs at least and uses at most; 0 means any number."""
    same: tuple[str, ...] = ()
    place: Place | None = field(default=None, compare=False)

    def unlike(self, one: Accelerator) -> str:
        """Return why an accelerator of this type is not of this class, empty where it is."""
        if self.id and one.id not in self.id:
            return "it has another number"
        if self.called and not (one.name and any(fnmatchcase(one.name, glob) for glob in self.called)):
            return f"it is called `{one.name}`" if one.name else "its name is not known"
        if self.memory and not self.memory.holds(one.memory):
            return f"it has {format_size(one.memory)}"
        if self.free and not self.free.holds(one.free):
            return f"{format_size(one.free)} are free"
        if self.capability and not (one.capability and self.capability.holds(one.capability)):
            return (
                f"its capability is {'.'.join(map(str, one.capability))}" if one.capability else "it has no capability"
            )
        return ""

    @property
    def tests(self) -> str:
        """What is asked of each device, as text: `memory >=24 GiB and capability >=8.9`."""
        said = [f"id {' or '.join(map(str, self.id))}"] if self.id else []
        said += [f"name {' or '.join(self.called)}"] if self.called else []
        tests = {"memory": self.memory, "free": self.free, "capability": self.capability}
        return " and ".join([*said, *(f"{key} {test}" for key, test in tests.items() if test is not None)])


def alike(devices: Iterable[Accelerator], same: Sequence[str], count: int = 0) -> list[Accelerator]:
    """Return, in order, the devices of the first group of at least `count` that agree in all that `same` names.

    Without a count, and where no group is large enough, of the largest group.
    """
    groups: dict[tuple[object, ...], list[Accelerator]] = {}
    for one in devices:
        groups.setdefault(tuple(getattr(one, key) for key in same), []).append(one)
    enough = [group for group in groups.values() if count and len(group) >= count]
    return enough[0] if enough else max(groups.values(), key=len, default=[])


# Reading.

SAME: Kind[tuple[str, ...]] = list_of(choice("name", "memory", "capability"), or_one=True, least=1)
COUNT = integer(1, LARGEST_ID + 1)
COUNT_DOC = "Needs at least this many devices, and uses at most as many: the first by id."


def _read_glob(value: object, cursor: Cursor) -> str | None:
    if value == "":
        cursor.error("DP104", "this name is empty", label="empty", help="leave `name` out for any")
        return None
    return TEXT.read(value, cursor)


_GLOB: Kind[str] = Kind("a glob of names", _read_glob, {"type": "string", "minLength": 1})


@dataclass(frozen=True)
class DeviceTests:
    """The keys that test accelerators of one type."""

    id: tuple[int, ...] | None = key(
        list_of(integer(0, LARGEST_ID), or_one=True, least=1), "Torch's numbers of devices. Any one of them matches."
    )
    name: tuple[str, ...] | None = key(
        list_of(_GLOB, or_one=True, least=1),
        "Globs of device names, as the driver reports them. Any one of them matches.",
    )
    memory: SizeTest | None = key(LEAST_SIZE, "The total memory of each device.")
    free: SizeTest | None = key(LEAST_SIZE, "The free memory of each device.")
    capability: CapabilityTest | None = key(CAPABILITY_TEST, "CUDA's compute capability.")
    same: tuple[str, ...] | None = key(SAME, "Attributes that the devices must share.")

    def as_class(self, name: str, type_: str, cursor: Cursor, count: int = 0) -> DeviceClass:
        """Return the class of devices of a type that pass."""
        return DeviceClass(
            name,
            type_,
            id=tuple(sorted(self.id or ())),
            called=self.name or (),
            memory=self.memory,
            free=self.free,
            capability=self.capability,
            count=count,
            same=self.same or (),
            place=cursor.document.place(cursor.path, "key"),
        )


@dataclass(frozen=True)
class _Typed:
    type: str | None = key(
        choice(*ACCELERATOR_TYPES), "A type of accelerator.", required=True, example='write `type = "cuda"`'
    )


@dataclass(frozen=True)
class DeviceClassTable(DeviceTests, _Typed):
    """The keys of `[devices.NAME]`."""

    count: int | None = key(COUNT, COUNT_DOC)


def classes_in(layer: ConfigLayer) -> Mapping[str, DeviceClass | None]:
    """Return the classes of devices that a layer defines, `None` for a malformed one. Collects nothing."""
    cursor = Cursor(layer.origins, (*layer.path, "devices"), [])
    return read_classes(layer.data["devices"], cursor) if "devices" in layer.data else {}


def read_classes(value: object, cursor: Cursor) -> dict[str, DeviceClass | None]:
    """Read `[devices]`: its classes by name, `None` for one that is malformed. Collects what is wrong."""
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", 'write `[devices.big]`, and below it `type = "cuda"`')
        return {}
    return {name: _read_class(name, table, cursor.at(name)) for name, table in value.items()}


def _read_class(name: str, table: object, cursor: Cursor) -> DeviceClass | None:
    before = len(cursor.findings)
    if name in RESERVED:
        cursor.error("DP111", f"`{name}` is the name of a type", label="taken", help="call it otherwise", part="key")
    elif not re.fullmatch(NAME, name):
        hint = "letters, digits, `-` and `_`"
        cursor.error("DP104", f"`{name}` is no name of a class", label="other characters", help=hint, part="key")
    if not isinstance(table, dict):
        hint = f'write `[devices.{name}]`, and below it `type = "cuda"`'
        wrong_type(table, cursor, "a table", hint)
        return None
    keys = read_as(DeviceClassTable, table, cursor, what=f"[devices.{name}]", label="a key of a class of devices")
    if len(cursor.findings) > before or keys.type is None:
        return None
    return keys.as_class(name, keys.type, cursor, keys.count or 0)
