"""How fast devices are.

Owns the constants of every prediction: what each accelerator reads in a second by its name, and how fast the rest of a
machine is. What a host says of itself comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._core.host import Accelerator, Host

GB = 10**9

RAM = 90 * GB * 7 // 10
LINK = 10 * GB
DISK = 3 * GB
CROSSING_NS = 40_000
NEW_TOKENS = 256
"""Tokens that are generated for one request, where the policy does not say: what runs once is divided by them."""

_SHARE = 80
"""Of what a device's memory could give, so many percent arrive while a model runs."""

_BANDWIDTHS: tuple[tuple[str, int], ...] = (
    # The more specific name first. GB/s, as their makers give them.
    ("b200", 8000), ("h200", 4800), ("h100 nvl", 3938), ("h100 pcie", 2039), ("h100", 3350),
    ("a100-sxm4-40", 1555), ("a100-pcie-40", 1555), ("a100 80gb pcie", 1935), ("a100", 2039),
    ("a40", 696), ("a30", 933), ("a10", 600), ("l40", 864), ("l4", 300), ("v100", 900), ("p100", 732), ("t4", 320),
    ("6000 ada", 960), ("a6000", 768), ("a5000", 768), ("a4000", 448),
    ("5090", 1792), ("5080", 960), ("5070 ti", 896), ("4090", 1008), ("4080 super", 736), ("4080", 717),
    ("4070 ti super", 672), ("4070", 504), ("4060 ti", 288), ("4060", 272), ("3090 ti", 1008), ("3090", 936),
    ("3080 ti", 912), ("3080", 760), ("3070 ti", 608), ("3070", 448), ("3060 ti", 448), ("3060", 360),
    ("2080 ti", 616), ("gb10", 273), ("mi300x", 5300), ("a770", 560), ("b580", 456),
    ("m4 max", 546), ("m4 pro", 273), ("m4", 120), ("m3 ultra", 819), ("m3 max", 400), ("m3 pro", 150), ("m3", 100),
    ("m2 ultra", 800), ("m2 max", 400), ("m2 pro", 200), ("m2", 100), ("m1 ultra", 800), ("m1 max", 400),
    ("m1 pro", 200), ("m1", 68),
)  # fmt: skip
_UNKNOWN = 400


def bandwidth(one: Accelerator) -> int:
    """Return the bytes that an accelerator reads in a second: what the host says, else by its name, else a guess."""
    if one.bandwidth is not None:
        return one.bandwidth
    name = (one.name or "").lower()
    nominal = next((speed for part, speed in _BANDWIDTHS if part in name), _UNKNOWN)
    return nominal * GB * _SHARE // 100


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast a host is beside its accelerators: bytes per second, and nanoseconds for a crossing."""

    ram: int = RAM
    link: int = LINK
    disk: int = DISK
    crossing_ns: int = CROSSING_NS

    @classmethod
    def of(cls, host: Host) -> Speeds:
        """Return what the host says, and constants for what it does not."""
        return cls(**dict(host.speed))
