"""One machine, as a frozen snapshot.

Owns `Host` and `Accelerator`: what a plan may know of hardware, and of the versions of its
software, and their TOML form. It asks no machine (`devpolicy.probe` does) and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike

from devpolicy.errors import HostError
from devpolicy.sizes import SizeError, parse_size

ACCELERATOR_TYPES = ("cuda", "mps", "xpu", "npu", "hpu")

Size = int | str
Pairs = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True, init=False)
class Accelerator:
    """One accelerator as this process sees it. `memory` and `free` are bytes.

    `id` is the ordinal that torch uses; inside a `Host` it defaults to the position among its type.
    A device with a `fault` is counted by the framework and cannot be used: nothing is planned on it.
    """

    type: str
    id: int | None
    memory: int
    free: int
    name: str | None
    capability: tuple[int, int] | None
    unified: bool
    """Whether it shares one pool of memory with the CPU (Apple silicon, integrated GPUs)."""
    fault: str | None
    physical: int | None
    """The index that the driver gives it, before `CUDA_VISIBLE_DEVICES`."""
    uuid: str | None
