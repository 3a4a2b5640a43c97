"""`[memory]`: the limits that a policy sets for the bytes of each device.

Owns its keys, their reading, and the merging of all entries for one device. What a cap or a headroom does to a plan
is the planner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.kinds import AMOUNT
from devpolicy._core.language.terms import read_term
from devpolicy._core.language.values import Amount, DeviceSelector
from devpolicy._core.toml.tables import TEXT, Kind, choice, fields_of, key, read_as, table_of, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.host import Accelerator
    from devpolicy._core.toml.tables import Cursor

Basis = Literal["free", "total"]
_BASIS: Kind[Basis] = choice("free", "total")
_BASIS_DOC = "The memory that percentages refer to."


@dataclass(frozen=True, slots=True)
class Reserve:
    """The keys of `reserve`."""

    kv_cache: Amount | None = key(AMOUNT, "Replaces the computed size of the KV cache.")
    activations: Amount | None = key(AMOUNT, "Replaces the computed size of the activations.")


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """The keys of a device's table in `[memory]`."""

    basis: Basis | None = key(_BASIS, _BASIS_DOC, default='`"free"`')
    cap: Amount | None = key(AMOUNT, "The most memory that may be used.", default='`"90%"` on the CPU, else all of it')
    headroom: Amount | None = key(AMOUNT, "Memory that stays free.", default='`["1 GiB", "2%"]` on accelerators')
    reserve: Reserve | None = key(
        table_of(Reserve, what="`reserve`", label="a key of `reserve`"), "Amounts that replace computed ones."
    )


@dataclass(frozen=True, slots=True)
class DiskTable:
    """The keys of `[memory.disk]`."""

    path: str | None = key(TEXT, "The folder for weights that must be rewritten, relative to the policy file.")
    basis: Basis | None = key(_BASIS, _BASIS_DOC, default='`"free"`')
    cap: Amount | None = key(AMOUNT, "The most memory that may be used.", default="all of it")
    headroom: Amount | None = key(AMOUNT, "Memory that stays free.", default="nothing")


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """The settings of `[memory]` for one term; `None` leaves a key to a less specific entry or the default."""

    term: DeviceSelector
    basis: Basis | None = None
    cap: Amount | None = None
    headroom: Amount | None = None
    kv_cache: Amount | None = None
    """`reserve.kv_cache`: replaces the derived figure."""
    activations: Amount | None = None
    """`reserve.activations`: replaces the derived figure."""
    place: Place | None = field(default=None, compare=False)


class Memory(NamedTuple):
    """A `[memory]` table: its entries as written, and the folder of the disk."""

    rules: tuple[MemoryRule, ...] = ()
    disk_path: str | None = None


# What several entries say of one device.

_KEYS = tuple(entry.name for entry in fields(MemoryRule) if entry.name not in ("term", "place"))


def said_of(what: Accelerator | str, rules: Sequence[MemoryRule]) -> MemoryRule:
    """Merge the entries for an accelerator, the CPU or the disk: key by key, device before class before type.

    Raises `Unsatisfiable`, DP306, where two of its classes set a key differently and the device itself does not set it.
    """
    merged = MemoryRule(DeviceSelector(what if isinstance(what, str) else what.type))
    by: dict[str, MemoryRule] = {}
    for rule in sorted(rules, key=_rank, reverse=True):
        if rule.term.type != what if isinstance(what, str) else not rule.term.names(what):
            continue
        for name in _KEYS:
            value = getattr(rule, name)
            if value is None:
                continue
            other = by.setdefault(name, rule)
            if _rank(other) == _rank(rule) and getattr(other, name) != value:
                raise Unsatisfiable(_disagreement(what, name, other, rule))
    return replace(merged, **{name: getattr(rule, name) for name, rule in by.items()})


def _rank(rule: MemoryRule) -> int:
    """How specific an entry is: a type, a class, a device."""
    return 2 if rule.term.id is not None else 1 if rule.term.device_class is not None else 0


def _disagreement(what: Accelerator | str, name: str, one: MemoryRule, other: MemoryRule) -> Diagnostic:
    where = f" at {one.place}" if one.place else ""
    device = what if isinstance(what, str) else what.type if what.type == "mps" else f"{what.type}:{what.id}"
    return Diagnostic(
        "DP306",
        f"`{device}` is of `{one.term}` and of `{other.term}`, and they set different values for its `{name}`",
        other.place,
        "the second",
        notes=(f"`{one.term}` sets it{where}",),
        help=f'set it for the device itself: `[memory."{device}"]`, or make the classes exclude each other',
    )


# Reading.

_OF_A_DEVICE = frozenset(entry.name for table in (MemoryTable, DiskTable) for entry in fields_of(table))


def _read_memory(value: object, cursor: Cursor) -> Memory:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", 'write `[memory]`, and below it `cuda = "20 GiB"`')
        return Memory()
    rules: list[MemoryRule] = []
    folder: str | None = None
    for name, entry in value.items():
        here = cursor.at(name)
        if name in _OF_A_DEVICE:
            hint = f"write it in a device's table: `[memory.{'disk' if name == 'path' else 'cuda'}]`"
            here.error("DP201", f"`{name}` is no device", label="a key of a device's table", help=hint, part="key")
            continue
        term = read_term(name, here.on_key())
        if term is None:
            continue
        rule, path = _read_entry(entry, here, term)
        folder = folder if path is None else _checked_folder(path, here.at("path"))
        if term.type != "disk" or any(getattr(rule, name) is not None for name in _KEYS):
            rules.append(rule)
    return Memory(tuple(rules), folder)


MEMORY: Kind[Memory] = Kind("a table", _read_memory)


def _read_entry(entry: object, cursor: Cursor, term: DeviceSelector) -> tuple[MemoryRule, str | None]:
    rule = MemoryRule(term, place=cursor.document.place(cursor.path, "key"))
    if not isinstance(entry, dict):
        return replace(rule, cap=AMOUNT.read(entry, cursor)), None
    what = f"[memory.{term}]" if term.id is None else f'[memory."{term}"]'
    label = "a key of this table"
    if term.type == "disk":
        disk = read_as(DiskTable, entry, cursor, what=what, label=label)
        return replace(rule, basis=disk.basis, cap=disk.cap, headroom=disk.headroom), disk.path
    keys = read_as(MemoryTable, entry, cursor, what=what, label=label)
    reserve = keys.reserve or Reserve()
    said = replace(rule, basis=keys.basis, cap=keys.cap, headroom=keys.headroom)
    return replace(said, kv_cache=reserve.kv_cache, activations=reserve.activations), None


def _checked_folder(path: str, cursor: Cursor) -> str | None:
    if not path.strip() or "\0" in path:
        cursor.error("DP104", "this is no folder", label="not a path", help='such as `path = "offload"`')
        return None
    if path.startswith("~"):
        hint = "write the path in full, or relative to the policy file"
        cursor.error("DP104", "`~` is not expanded", label="a folder of this name", help=hint)
        return None
    beside = cursor.document.folder(cursor.path)
    return path if beside is None else str(Path(beside) / path)
