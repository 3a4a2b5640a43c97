"""`Host` to TOML for people: no defaults, equal devices once.

Owns the form of the text. The same host gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING

from devpolicy._core.host.facts import MATMUL
from devpolicy._core.sizes import exact_size
from devpolicy._core.toml.writer import write_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devpolicy._core.host.values import Accelerator, Host


def write(host: Host, *, under: str = "") -> str:
    """Return the host as TOML. Defaults are left out, equal devices in a row are one table with a `count`.

    `under` is the table that holds it in another file, such as `host.lab`.
    """
    above = f"{under}." if under else ""
    lines = [f"[{under}]"] if under else []
    words = ("name", "description", "measured", "os", "arch")
    lines += write_pairs((key, text) for key in words if (text := getattr(host, key)))
    lines += _sizes(host, "memory", "free") + (_sizes(host, "disk", "disk_free") if host.disk else [])
    for key, pairs in (("versions", host.versions), ("faults", host.faults)):
        if pairs:
            lines += ["", f"[{above}{key}]", *write_pairs(pairs)]
    if host.speed:
        lines += ["", f"[{above}speed]"]
        lines += [_speed(key, value) for key, value in host.speed]
    for first, count, ordinal_is_position in _runs(host.accelerators):
        lines += ["", f"[[{above}accelerator]]", *_accelerator_lines(first, count, ordinal_is_position)]
    return "\n".join(lines) + "\n"


def _runs(accelerators: tuple[Accelerator, ...]) -> Iterator[tuple[Accelerator, int, bool]]:
    """Yield the first device of each run of equal ones, the run's length, and whether its id is its position."""
    seen: Counter[str] = Counter()
    start = 0
    while start < len(accelerators):
        first = accelerators[start]
        assert first.id is not None  # INVARIANT: a host sets the ids of its accelerators
        end = start + 1
        alone = first.physical is not None or first.uuid is not None
        while not alone and end < len(accelerators) and accelerators[end] == first.at(first.id + end - start):
            end += 1
        yield first, end - start, first.id == seen[first.type]
        seen[first.type] += end - start
        start = end


def _accelerator_lines(accelerator: Accelerator, count: int, ordinal_is_position: bool) -> Iterator[str]:
    numbers = {"count": count if count > 1 else None, "id": None if ordinal_is_position else accelerator.id}
    yield from write_pairs([("type", accelerator.type), *(pair for pair in numbers.items() if pair[1] is not None)])
    yield from _sizes(accelerator, "memory", "free")
    for entry in fields(accelerator):
        value = getattr(accelerator, entry.name)
        if entry.name in ("type", "id", "memory", "free") or value is None:
            continue
        if entry.name == "unified":
            if value and accelerator.type != "mps":
                yield "unified = true"
        elif entry.name == "memory_pressure":
            if value:
                yield f'memory_pressure = "{exact_size(value)}"'
        elif entry.name == "bandwidth" or entry.name in MATMUL:
            yield _speed(entry.name, value)
        else:
            yield from write_pairs([(entry.name, value)])


def _speed(key: str, value: int) -> str:
    return f"{key} = {value}" if key.endswith("_ns") or key in MATMUL else _rate(key, value)


def _rate(key: str, value: int) -> str:
    whole, rest = divmod(value, 10**9)
    return f'{key} = "{value} B"' if rest else f'{key} = "{whole} GB"'


def _sizes(owner: object, total: str, free: str) -> list[str]:
    whole, part = getattr(owner, total), getattr(owner, free)
    lines = [f'{total} = "{exact_size(whole)}"']
    return lines if part == whole else [*lines, f'{free} = "{exact_size(part)}"']
