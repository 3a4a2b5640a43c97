"""Strategies for accelerators and hosts.

All arguments are keyword-only bounds. Hosts shrink towards a small machine without accelerators, accelerators
towards few, small and unused ones, along the order of types cpu, mps, xpu, cuda. Faults are drawn only by
`faulty_hosts`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.host import ACCELERATOR_TYPES, MOST_DEVICES, Accelerator, Host
from devpolicy._core.sizes import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = ("mps", "xpu", "cuda")
"""The default types of accelerators, simplest first."""

CARDS = tuple(size * GIB for size in (8, 12, 16, 24, 40, 80, 141))
"""The default memories of an accelerator in bytes."""

# All of it free is the simplest, none of it the next: "nearly full" then shrinks to 0 bytes free.
FREE_SIXTEENTHS = (16, 0, 8, 15, 4, 1)

# What a kind of device is, beside its memory: name, compute capability, and whether it shares the CPU's memory. One
# choice and not three: Hypothesis deletes an entry of a list only where it is made of few choices.
_MODELS: dict[str, tuple[tuple[str, tuple[int, int] | None, bool], ...]] = {
    "mps": (("Apple M3 Max", None, True),),
    "xpu": (("Intel(R) Arc(TM) A770 Graphics", None, False),),
    "cuda": (
        ("NVIDIA GeForce RTX 4090", (8, 9), False),
        ("NVIDIA A100-SXM4-80GB", (8, 0), False),
        ("NVIDIA H100 80GB HBM3", (9, 0), False),
        ("NVIDIA GB10", (12, 1), True),
    ),
}
_REASONS = (
    "driver initialization failed",
    "CUDA error: uncorrectable ECC error encountered",
    "no answer within 20 seconds",
)


def accelerators(
    *, types: Sequence[str] = TYPES, memory: Sequence[int] = CARDS, full: bool = True, fault: bool = False
) -> st.SearchStrategy[Accelerator]:
    """Return a strategy for `Accelerator` without an id, as one gives it to `Host`.

    `types` and `memory` (bytes) are in the order in which they shrink, first to simplest; `full=False` keeps all memory
    free; `fault` gives each device one. CUDA devices may share the CPU's memory.
    """
    kinds, sizes = _types(types), _sizes(memory)
    return st.sampled_from(kinds).flatmap(lambda kind: _accelerators(kind, sizes, full=full, fault=fault))


def hosts(
    *,
    types: Sequence[str] = TYPES,
    min_accelerators: int = 0,
    max_accelerators: int = 8,
    memory: Sequence[int] = CARDS,
    ram: Sequence[int] = (16 * GIB, 64 * GIB, 512 * GIB),
    full: bool = True,
    mixed: bool = True,
) -> st.SearchStrategy[Host]:
    """Return a strategy for `Host` without faults: machines with none, or some accelerators, of one type mostly.

    `memory` and `ram` are bytes to choose from, `full=False` keeps all memory free, `mixed` adds machines with
    accelerators of several types. A machine has one mps device at most, whatever the bounds say, and a device that
    shares the CPU's memory has at most the machine's.
    """
    kinds, sizes, rams = _types(types), _sizes(memory), _sizes(ram)
    if not 0 <= min_accelerators <= max_accelerators <= MOST_DEVICES:
        raise InvalidArgument(f"0 <= min_accelerators <= max_accelerators <= {MOST_DEVICES} does not hold")
    groups: list[st.SearchStrategy[list[Accelerator]]] = [] if min_accelerators else [st.just([])]
    for kind in kinds:
        most = min(max_accelerators, 1) if kind == "mps" else max_accelerators
        least = max(min_accelerators, 1)
        if least <= most:
            one = _accelerators(kind, sizes, full=full, fault=False)
            groups.append(st.lists(one, min_size=least, max_size=most))
    many = [kind for kind in kinds if kind != "mps"]
    if mixed and len(many) > 1 and max_accelerators > 1:
        any_kind = accelerators(types=many, memory=sizes, full=full)
        groups.append(st.lists(any_kind, min_size=max(min_accelerators, 2), max_size=max_accelerators))
    if not groups:
        raise InvalidArgument("no machine of these types has that many accelerators")
    return st.one_of(groups).flatmap(lambda devices: _machines(devices, rams, full=full))


def faulty_hosts(*, types: Sequence[str] = TYPES, max_accelerators: int = 4) -> st.SearchStrategy[Host]:
    """Return a strategy for `Host` with at least one fault: of a device, or of everything of a type.

    A driver that fails may have counted devices before, or have none.
    """
    kinds = _types(types)
    bare = hosts(types=kinds, max_accelerators=max_accelerators).flatmap(lambda host: _with_faulty_types(host, kinds))
    if max_accelerators < 1:
        return bare
    populated = hosts(types=kinds, min_accelerators=1, max_accelerators=max_accelerators)
    counted = populated.flatmap(lambda host: _with_faulty_types(host, sorted({one.type for one in host.accelerators})))
    return bare | counted | populated.flatmap(_with_faulty_devices)


def _accelerators(kind: str, sizes: Sequence[int], *, full: bool, fault: bool) -> st.SearchStrategy[Accelerator]:
    def build(
        memory: int, sixteenths: int, model: tuple[str | None, tuple[int, int] | None, bool], why: str | None
    ) -> Accelerator:
        name, capability, unified = model
        return Accelerator(
            kind,
            memory=memory,
            free=memory * sixteenths // 16,
            name=name,
            capability=capability,
            unified=unified,
            fault=why,
        )

    return st.builds(
        build,
        st.sampled_from(sizes),
        st.sampled_from(FREE_SIXTEENTHS if full else (16,)),
        st.sampled_from(((None, None, False), *_MODELS.get(kind, ()))),
        st.sampled_from(_REASONS) if fault else st.none(),
    )


def _machines(devices: list[Accelerator], rams: Sequence[int], *, full: bool) -> st.SearchStrategy[Host]:
    mac = any(device.type == "mps" for device in devices)
    sixteenths = st.sampled_from(FREE_SIXTEENTHS if full else (16,))

    def build(memory: int, free: int, disk: int, disk_free: int, torch: str | None) -> Host:
        return Host(
            [_within(memory, one) for one in devices],
            memory=memory,
            free=memory * free // 16,
            disk=disk,
            disk_free=disk * disk_free // 16,
            os="macos" if mac else "linux",
            arch="arm64" if mac else "x86_64",
            versions={"torch": torch} if torch else {},
        )

    disks = st.sampled_from((0, 500 * GIB, 4096 * GIB))
    torch = st.sampled_from((None, "2.13.0", "2.6.0+cu124"))
    return st.builds(build, st.sampled_from(rams), sixteenths, disks, sixteenths, torch)


def _within(ram: int, one: Accelerator) -> Accelerator:
    """Return the device with at most the machine's memory, where it shares that."""
    if not one.unified or one.memory <= ram:
        return one
    return replace(one, memory=ram, free=min(one.free, ram))


def _with_faulty_types(host: Host, kinds: Sequence[str]) -> st.SearchStrategy[Host]:
    # Each type on its own, and not a dictionary of some: from that, Hypothesis cannot take away the simpler types.
    reasons = st.tuples(*(st.none() | st.sampled_from(_REASONS) for _ in kinds))
    told = reasons.map(lambda whys: tuple((kind, why) for kind, why in zip(kinds, whys, strict=True) if why))
    return told.map(lambda faults: replace(host, faults=faults or ((kinds[0], _REASONS[0]),)))


def _with_faulty_devices(host: Host) -> st.SearchStrategy[Host]:
    positions = st.sets(st.integers(0, len(host.accelerators) - 1), min_size=1)

    def build(chosen: set[int], why: str) -> Host:
        devices = [replace(one, fault=why) if at in chosen else one for at, one in enumerate(host.accelerators)]
        return replace(host, accelerators=tuple(devices))

    return st.builds(build, positions, st.sampled_from(_REASONS))


def _types(types: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in types if name not in ACCELERATOR_TYPES]
    if unknown or not types:
        raise InvalidArgument(f"types are some of {', '.join(ACCELERATOR_TYPES)}, got {types!r}")
    return tuple(types)


def _sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if not sizes or any(size < 0 for size in sizes):
        raise InvalidArgument(f"sizes in bytes are not negative, and at least one is needed, got {sizes!r}")
    return tuple(sizes)
