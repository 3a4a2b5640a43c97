"""Which GPUs this process sees, and in which order.

Owns the reading of `CUDA_VISIBLE_DEVICES`, as torch and CUDA read it. A pure function of the
setting and of the GPUs; it asks nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T", int, str)

# strtoul's notion of a number: what follows the digits is ignored, so that `1gpu2` is 1.
_ORDINAL = re.compile(r"\+?([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver counts it, and the UUIDs of its MIG instances; `None` where it is not in MIG mode."""

    uuid: str
    instances: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A GPU, by its position among those of the driver, or one of its MIG instances."""

    position: int
    instance: int | None = None


def visible(setting: str | None, gpus: Sequence[Gpu]) -> tuple[Seen, ...]:
    """Return what a process with `CUDA_VISIBLE_DEVICES=setting` (`None`: not set) sees, in the order of torch's ids.

    Indices, or unique prefixes of UUIDs (`GPU-…`), or a MIG instance (`MIG-…`); the kind of the first entry holds
    for all. The list ends at the first entry that names nothing (-1 is the usual way to say so); a device named
    twice makes it empty. Costs the product of entries and GPUs.
    """
    if setting is None:
        return _with_instances(range(len(gpus)), gpus)
    if setting.startswith("MIG-"):
        return _instance(setting.split(",")[0], gpus)
    if setting.startswith("GPU-"):
        entries = _distinct(entry if entry.startswith("GPU-") else None for entry in setting.split(","))
        positions = _distinct(_by_prefix(entry, [gpu.uuid for gpu in gpus]) for entry in entries)
    else:
        ordinals = _distinct(_ordinal(entry) for entry in setting.split(","))
        # Repetitions count before the range does: `0,9,9` is empty on a host of two GPUs.
        positions = _distinct(ordinal if ordinal < len(gpus) else None for ordinal in ordinals)
    return _with_instances(positions, gpus)


def _with_instances(positions: Iterable[int], gpus: Sequence[Gpu]) -> tuple[Seen, ...]:
    """CUDA gives a process one MIG instance, the first it meets, and then no other device at all."""
    result = []
    for position in positions:
        instances = gpus[position].instances
        if instances:
            return (Seen(position, 0),)
        if instances is None:
            result.append(Seen(position))
    return tuple(result)


def _instance(entry: str, gpus: Sequence[Gpu]) -> tuple[Seen, ...]:
    everything = [
        (uuid, Seen(position, index))
        for position, gpu in enumerate(gpus)
        for index, uuid in enumerate(gpu.instances or ())
    ]
    found = _by_prefix(entry, [uuid for uuid, _ in everything])
    return () if found is None else (everything[found][1],)


def _distinct(entries: Iterable[T | None]) -> list[T]:
    """Return the entries up to the first `None`, or nothing where one comes twice before it."""
    result: list[T] = []
    for entry in entries:
        if entry is None:
            break
        if entry in result:
            return []
        result.append(entry)
    return result


def _ordinal(entry: str) -> int | None:
    match = _ORDINAL.match(entry.strip())
    if match is None:
        return None
    # Python does not read numbers of thousands of digits, and no machine has a billion GPUs.
    return int(match[1]) if len(match[1]) < 10 else int(match[1].lstrip("0")[:10] or "0")


def _by_prefix(prefix: str, uuids: Sequence[str]) -> int | None:
    matching = [position for position, uuid in enumerate(uuids) if uuid.startswith(prefix)]
    return matching[0] if len(matching) == 1 else None
