"""The hosts of a test: by name, by glob, and varied.

Owns the lookup among a file's own hosts, the catalogue and files, and what `vary` makes of a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, FleetError, HostError, findings_at
from devpolicy._core.fleet.catalogue import catalogue as fleet_catalogue
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import MOST_DEVICES, Accelerator, Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.language.expectations import Dimension, Word
from devpolicy._core.names import beside, likely, unknown
from devpolicy._core.sizes import exact_size

Owner = TypeVar("Owner", Host, Accelerator)


@dataclass(frozen=True, slots=True)
class Variant:
    """A host of a test, and what was varied of it: pairs of what and its value."""

    name: str
    host: Host
    varied: tuple[tuple[str, str], ...] = ()
    fleet: Fleet | None = None
    """The fleet that is asked in place of the host."""

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{what} = {value}" for what, value in self.varied)])


def find_hosts(
    words: Iterable[Word], own: Mapping[str, Host], folder: Path | None, findings: list[Diagnostic]
) -> list[Variant]:
    """Return the hosts that a test names, each once. Collects DP202 and the findings of a host file."""
    found: dict[str, Host] = {}
    for word in words:
        try:
            found.update(dict(_named(word, own, folder)))
        except HostError as broken:
            findings += findings_at(broken, word.place, code="DP104", with_lines=False)
    return [Variant(name, host) for name, host in found.items()]


def find_fleet(word: Word, folder: Path | None, findings: list[Diagnostic]) -> list[Variant]:
    """Return the fleet that a test names, in place of a host. Collects DP202 and the findings of a fleet file."""
    name = word.text
    is_file = name not in fleet_catalogue() and (name.endswith(".toml") or "/" in name)
    try:
        return [Variant(name, Host(memory=0), fleet=Fleet.load((folder or Path()) / name if is_file else name))]
    except FleetError as broken:
        findings += findings_at(broken, word.place, code="DP104", with_lines=False)
        return []


def _named(word: Word, own: Mapping[str, Host], folder: Path | None) -> Iterator[tuple[str, Host]]:
    name = word.text
    if name in own:
        yield name, own[name]
        return
    if any(sign in name for sign in "*?["):
        names = [other for other in (*own, *catalogue()) if fnmatchcase(other, name)]
        if not names:
            known = likely(name, [*own, *catalogue()])
            raise HostError(Diagnostic("DP202", f"no host is like `{name}`", word.place, help=known))
        yield from ((other, own[other] if other in own else Host.load(other)) for other in names)
        return
    if name not in catalogue() and not name.endswith(".toml"):
        raise HostError(unknown("host", name, own, place=word.place, label="no such host"))
    yield name, Host.load(beside("host", name, folder, HostError))


# What `vary` makes of them.


def varied(base: Iterable[Variant], dimensions: tuple[Dimension, ...], findings: list[Diagnostic]) -> list[Variant]:
    """Return every combination of the dimensions on every host, equal hosts once.

    What a host has not got does not vary; more free than there is in total is left out. Collects DP106 for a
    dimension that changes nothing on any of the hosts, and for a value that no combination can have.
    """
    if not dimensions:
        return list(base)
    result: list[Variant] = []
    used: set[tuple[Dimension, int]] = set()
    for variant in base:
        own = [one for one in dimensions if not one.device or _meant(one, variant.host)]
        seen: set[Host] = set()
        for values in product(*(one.values for one in own)):
            host = _combined(variant.host, dict(zip(own, values, strict=True)))
            if host is None:
                continue
            used.update(zip(own, values, strict=True))
            if host not in seen:
                seen.add(host)
                told = tuple((str(one), _shown(one, value)) for one, value in zip(own, values, strict=True))
                result.append(replace(variant, host=host, varied=told))
    for one in dimensions:
        missing = [value for value in one.values if (one, value) not in used]
        if len(missing) == len(one.values):
            message = f"none of these hosts has what `{one}` varies"
            findings.append(Diagnostic("DP106", message, one.place, "changes nothing"))
        elif missing:
            message = f"`{one}` is never {_shown(one, missing[0])}: there is less in total on each of these hosts"
            findings.append(Diagnostic("DP106", message, one.place, "a value that is left out"))
    return result


def _shown(dimension: Dimension, value: int) -> str:
    return str(value) if dimension.fact == "count" else exact_size(value)


def _meant(dimension: Dimension, host: Host) -> list[Accelerator]:
    named = Device.from_str(dimension.device)
    return [one for one in host.devices(named.type.value) if named.id in (None, one.id)]


_ORDER = ("count", "memory", "free", "disk", "disk_free")
"""Totals change before what is free of them, whatever order they are written in."""


def _combined(host: Host, values: Mapping[Dimension, int]) -> Host | None:
    for one in sorted(values, key=lambda one: (bool(one.device), ":" in one.device, _ORDER.index(one.fact))):
        changed = _changed(host, one, values[one])
        if changed is None:
            return None
        host = changed
    return host


def _changed(host: Host, dimension: Dimension, value: int) -> Host | None:
    """Return the host with one fact changed; `None` where more would be free than there is."""
    if not dimension.device:
        return _resized(host, dimension.fact, value)
    meant = _meant(dimension, host)
    if dimension.fact == "count":
        return _counted(host, dimension.device, value)
    others = [one for one in host.accelerators if one not in meant]
    changed = [_resized(one, dimension.fact, value) for one in meant]
    sound = [one for one in changed if one is not None]
    return replace(host, accelerators=(*others, *sound)) if len(sound) == len(meant) else None


def _resized(owner: Owner, fact: str, value: int) -> Owner | None:
    """Return a host or a device with another total, of which as much is taken as before, or with more or less free."""
    total, free = ("disk", "disk_free") if fact.startswith("disk") else ("memory", "free")
    whole, part = getattr(owner, total), getattr(owner, free)
    if fact == free and value > whole:
        return None
    changes: dict[str, Any] = {fact: value} if fact == free else {fact: value, free: max(0, value - (whole - part))}
    return replace(owner, **changes)


def _counted(host: Host, kind: str, count: int) -> Host:
    """Return the host with so many devices of a type: the first of them, and further ones like the last."""
    devices = list(host.devices(kind))
    others = [one for one in host.accelerators if one.type != kind]
    last = devices[-1]
    more = range(1, 1 + count - len(devices))
    added = [replace(last, id=(last.id or 0) + at, uuid=None, physical=None) for at in more]
    kept = [one for one in (*devices, *added) if (one.id or 0) < MOST_DEVICES]
    return replace(host, accelerators=(*others, *kept[:count]))
