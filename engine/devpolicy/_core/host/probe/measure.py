"""How fast this machine is: about a minute of small benchmarks.

Owns what is measured, for `[speed]` and for each accelerator. Unlike a probe it uses the devices, in this process.
`torch_rates` has what needs torch; without torch RAM and the disk are measured.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from devpolicy._core.errors import HostError
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.host.facts import MATMUL_DTYPES
from devpolicy._core.host.probe.torch_rates import Clock, TorchRates, missing, seconds

if TYPE_CHECKING:
    from os import PathLike

Progress = Callable[[str], None]
"""Called with what is measured next."""

_FILE = 256 << 20
_TENSOR = 4 << 20
"""Bytes of such a file that are brought in at once."""
_COPIED = 256 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """A host with its speeds, and in words what could not be measured."""

    host: Host
    left_out: tuple[str, ...]


def measure(
    host: Host,
    *,
    folder: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Measured:
    """Measure the speeds of this machine, whose devices and memory are those of `host`.

    Takes about a minute, and more with several GPUs. `folder` is on the disk that is measured, by default the one of
    temporary files; 256 MiB are written there for a moment. What cannot be measured stays as the host states it. Raises
    `HostError` where nothing can be written there.
    """
    work = _Work(clock, progress or (lambda what: None))
    work.tell("the disk")
    work.speed["disk"] = disk_rate(folder, clock)
    accelerators = host.accelerators
    if find_spec("torch") is None:
        work.tell("RAM")
        work.speed["ram"] = copy_rate(clock)
        work.left_out.append("matrix products, calls and accelerators, for want of torch")
    else:
        work.cpu()
        accelerators = tuple(work.accelerator(one, host) for one in accelerators)
        work.between(accelerators)
    speed = {**dict(host.speed), **work.speed}
    measured = replace(host, speed=tuple(speed.items()), accelerators=accelerators, measured=time.strftime("%Y-%m-%d"))
    return Measured(measured, tuple(work.left_out))


@dataclass(slots=True)
class _Work:
    clock: Clock
    tell: Progress
    speed: dict[str, int] = field(default_factory=dict)
    links: list[tuple[int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The accelerators that were measured."""
    left_out: list[str] = field(default_factory=list)

    def cpu(self) -> None:
        rates = TorchRates("cpu", self.clock)
        for dtype in MATMUL_DTYPES:
            self.tell(f"RAM and matrix products in {dtype}")
            self.speed["ram" if dtype == "float32" else f"ram_{dtype}"] = rates.read_rate(dtype)
            self.speed[f"matmul_{dtype}"] = rates.matmul_rate(dtype)
        self.tell("calls of modules")
        self.speed["call_ns"] = rates.call_ns()
        if find_spec("transformers") and find_spec("accelerate"):
            self.speed["onload_ns"] = rates.onload_ns()

    def accelerator(self, one: Accelerator, host: Host) -> Accelerator:
        name = f"{one.type}:{one.id}"
        why = one.fault or host.fault(one.type) or missing(one)
        if why:
            self.left_out.append(f"`{name}`: {why}")
            return one
        self.tell(f"`{name}`")
        rates = TorchRates(name, self.clock)
        products = {dtype: rates.matmul_rate(dtype) for dtype in MATMUL_DTYPES}
        self.links.append((rates.link_rate(to_device=True), rates.link_rate(to_device=False)))
        self.speed["call_ns"] = max(self.speed["call_ns"], rates.call_ns())
        self.names.append(name)
        return replace(
            one,
            bandwidth=rates.read_rate("bfloat16"),
            matmul_float32=products["float32"],
            matmul_bfloat16=products["bfloat16"],
            matmul_float16=products["float16"],
        )

    def between(self, accelerators: tuple[Accelerator, ...]) -> None:
        """Keep the slowest link, so that no plan counts on a better one; and time a hand-over between two devices."""
        if self.links:
            to_device, back = zip(*self.links, strict=True)
            self.speed["link"], self.speed["link_back"] = min(to_device), min(back)
        if len(self.names) > 1:
            self.tell("hand-overs between accelerators")
            first, *others = self.names
            times = [TorchRates(first, self.clock).hand_over_ns(other) for other in others]
            self.speed["crossing_ns"] = max(times)


def copy_rate(clock: Clock) -> int:
    """Return the bytes per second that RAM gives and takes while it is copied: what can be known without torch."""
    source = bytearray(_COPIED)
    return max(1, int(2 * _COPIED / seconds(lambda: bytes(source), clock)))


def disk_rate(folder: str | PathLike[str] | None = None, clock: Clock = time.perf_counter) -> int:
    """Return the bytes per second that come from a file of which nothing is in RAM, where the system allows that.

    The file is read as weights are that were offloaded: it is mapped anew for each tensor, whose pages come when they
    are touched. Raises `HostError` where the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="devpolicy-", dir=folder) as inside:
            path = Path(inside) / "measured"
            block = os.urandom(1 << 20)
            with path.open("wb") as file:
                for _ in range(_FILE >> 20):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            taken = median(_read_once(path, clock) for _ in range(3))
    except OSError as broken:
        raise HostError(f"the disk cannot be measured: {broken.strerror or broken}") from None
    return max(1, int(_FILE / taken))


def _read_once(path: Path, clock: Clock) -> float:
    drop = getattr(os, "posix_fadvise", None)
    if drop is not None:
        with path.open("rb") as file:
            drop(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = clock()
    for start in range(0, _FILE, _TENSOR):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for page in range(start, min(start + _TENSOR, _FILE), mmap.PAGESIZE):
                mapped[page]
    return clock() - begun
