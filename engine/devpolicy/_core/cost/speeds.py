"""How fast the devices of a host are.

Owns the constants of every prediction: what each accelerator reads in a second by its name, and how fast the rest of a
machine is. What a host file states comes first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from devpolicy._core.cost.bandwidths import BANDWIDTHS
from devpolicy._core.device import Device
from devpolicy._core.host import Accelerator, Host

GB = 10**9

RAM = 90 * GB * 7 // 10
LINK = 10 * GB
DISK = 3 * GB
CROSSING_NS = 40_000
NEW_TOKENS = 256
"""Tokens of an answer, where the policy does not state them: the time of what runs once is divided by them."""

_SHARE = 80
"""Of what a device's memory could give, so many percent arrive while a model runs."""
_UNKNOWN = 400
_LAPTOP = "laptop"


def bandwidth(one: Accelerator) -> int:
    """Return the bytes that an accelerator reads in a second: as the host states, else by its name, else a guess."""
    if one.bandwidth is not None:
        return one.bandwidth
    return (_nominal(one.name or "") or _UNKNOWN) * GB * _SHARE // 100


@cache
def _nominal(name: str) -> int | None:
    """Return the GB/s of the row whose words are all in a name, the most of several rows; `None` where none is."""
    words = _words(name)
    rows = ((len(row), speed) for row, speed in _rows() if row <= words and (_LAPTOP in words) == (_LAPTOP in row))
    best = max(rows, default=None)
    return None if best is None else best[1]


@cache
def _rows() -> tuple[tuple[frozenset[str], int], ...]:
    return tuple((_words(name), speed) for name, speed, _ in BANDWIDTHS)


def _words(name: str) -> frozenset[str]:
    """Return the words of a device's name; cards for laptops are all called so, however their names say it."""
    return frozenset(re.findall(r"[a-z0-9]+", re.sub(r"\b(max-q|mobile|notebook)\b", _LAPTOP, name.lower())))


def bandwidth_of(device: Device, host: Host) -> int:
    """Return the bytes that a device which executes reads in a second."""
    if device.type.value == "cpu":
        return Speeds.of(host).ram
    return next(bandwidth(one) for one in host.devices(device.type.value) if device.id in (None, one.id))


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast a host is beside its accelerators: bytes per second, and nanoseconds for a hand-over."""

    ram: int = RAM
    link: int = LINK
    disk: int = DISK
    crossing_ns: int = CROSSING_NS

    @classmethod
    def of(cls, host: Host) -> Speeds:
        """Return what the host states, and constants for what it does not."""
        return cls(**dict(host.speed))
