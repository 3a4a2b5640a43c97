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
from devpolicy._core.memory.budgets import accelerator_of

GB = 10**9

RAM = 90 * GB * 7 // 10
LINK = 10 * GB
DISK = 3 * GB
CROSSING_NS = 40_000
NEW_TOKENS = 256
"""Tokens of an answer, where the policy does not state them: the time of what runs once is divided by them."""

OPERATIONS = 500 * GB
"""Operations of matrix products on a CPU in a second."""

_SHARE = 80
"""Of what a device's memory could give, so many percent arrive while a model runs."""
_OPERATIONS_PER_BYTE = 90
"""Of an accelerator in 16 bits, for each byte that it could read: makers give 70 to 400, of which a part arrives."""
_FLOAT32_SHARE = 8
"""Products in float32 run at one part of so many."""
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
    """Return the words of a device's name; of laptop cards, one word replaces their different ways to write that."""
    return frozenset(re.findall(r"[a-z0-9]+", re.sub(r"\b(max-q|mobile|notebook)\b", _LAPTOP, name.lower())))


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """How fast a device that executes is, for a model that computes in one dtype."""

    bandwidth: int
    """Bytes that it reads in a second."""
    operations: int
    """Operations of large matrix products in a second; a multiplication and its addition are two."""
    overlaps: bool = True
    """Whether weights are read while products are computed: a GPU's do, a core of a CPU does one after the other."""


def speed_of(device: Device, host: Host, dtype: str) -> DeviceSpeed:
    """Return how fast a device is: as the host states, else by its name, else a guess."""
    stated = f"matmul_{dtype}"
    if device.type.value == "cpu":
        known = dict(host.speed)
        read = known.get(f"ram_{dtype}") or known.get("ram", RAM)
        return DeviceSpeed(read, known.get(stated, OPERATIONS), overlaps=False)
    one = accelerator_of(device, host)
    if one is None:  # INVARIANT: a device that is planned for is one of the host's
        raise LookupError(f"the host has no `{device}`")
    guess = (_nominal(one.name or "") or _UNKNOWN) * GB * _OPERATIONS_PER_BYTE
    guess = guess if dtype in ("bfloat16", "float16") else guess // _FLOAT32_SHARE
    return DeviceSpeed(bandwidth(one), getattr(one, stated, None) or guess)


_BESIDE_DEVICES = ("link", "disk", "crossing_ns", "call_ns", "onload_ns")


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast a host is beside its devices: bytes per second, and nanoseconds for a hand-over and for a call."""

    link: int = LINK
    disk: int = DISK
    crossing_ns: int = CROSSING_NS
    call_ns: int = 0
    """What calling a module takes beside its products; where nobody measured it, it is left out."""
    onload_ns: int = 0
    """What bringing one tensor in takes beside its bytes; where nobody measured it, it is left out."""
    measured: str | None = None

    @classmethod
    def of(cls, host: Host) -> Speeds:
        """Return what the host states, and constants for what it does not."""
        known = {name: value for name, value in host.speed if name in _BESIDE_DEVICES}
        return cls(**known, measured=host.measured)
