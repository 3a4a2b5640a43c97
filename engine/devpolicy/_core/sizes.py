"""Bytes and their units.

Owns the reading and writing of sizes. Bytes are `int` everywhere inside devpolicy; text
that comes from a user needs a unit, because `24` and `24 GB` and `24 GiB` are three sizes.
"""

from __future__ import annotations

import re

from devpolicy._core.errors import DevPolicyError

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40

UNITS: dict[str, int] = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_BY_LOWER = {unit.lower(): factor for unit, factor in UNITS.items()}
_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)", re.ASCII)

LARGEST = 2**63 - 1


class SizeError(DevPolicyError, ValueError):
    """A size that cannot be read."""


def parse_size(value: int | str) -> int:
    """Return a size in bytes from bytes (`int`) or from text with a unit (`"24 GiB"`, `"1.5 GB"`).

    Fractions of a byte are dropped. Raises `SizeError` for anything else, and for sizes of
    2**63 bytes and above.

    >>> parse_size("24 GiB"), parse_size("1.5 kB"), parse_size(512)
    (25769803776, 1500, 512)
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise SizeError(f"a size is a number of bytes or text such as `24 GiB`, not {_shown(value)}")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise SizeError(f"`{value}` is not a size: write a number and a unit, such as `24 GiB`")
        whole, decimals, unit = match.groups()
        factor = _BY_LOWER.get(unit.lower())
        if not unit:
            raise SizeError(f"`{value}` has no unit: write `{value.strip()} GiB`, or `{value.strip()} B` for bytes")
        if factor is None:
            raise SizeError(_unknown_unit(value, unit))
        # Exact in integers: a float would be off by bytes above 2**53.
        digits = (decimals or "")[:30]
        size = int(whole.lstrip("0")[:40] or "0") * factor + int(digits or "0") * factor // 10 ** len(digits)
    if size < 0:
        raise SizeError("a size is not negative")
    if size > LARGEST:
        # An integer may have more digits than Python agrees to print.
        shown = f"`{value}`" if isinstance(value, str) else "a size of 2**63 bytes or more"
        raise SizeError(f"{shown} is larger than any device")
    return size


def _unknown_unit(value: str, unit: str) -> str:
    letter = unit[0].upper()
    if letter in "KMGTP":
        return f"`{value}` has an unknown unit: `{unit}`: did you mean `{letter}iB` (1024s) or `{letter}B` (1000s)?"
    return f"`{value}` has an unknown unit: `{unit}`: known are {', '.join(UNITS)}"


def format_size(size: int) -> str:
    """Return a size for people, in binary units with one decimal.

    >>> format_size(16_000_000_000), format_size(0)
    ('14.9 GiB', '0 B')
    """
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.1f} {unit}"
    return f"{size} B"


def exact_size(size: int) -> str:
    """Return text that `parse_size` reads back to the same bytes, in the largest unit that divides it.

    >>> exact_size(3 << 29), exact_size(1_000)
    ('1536 MiB', '1000 B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]} {unit}"
    return f"{size} B"


def _shown(value: object) -> str:
    # Of other things the type says enough, and showing them might fail.
    return f"{value}" if value is None or isinstance(value, bool | float) else f"a value of type {type(value).__name__}"
