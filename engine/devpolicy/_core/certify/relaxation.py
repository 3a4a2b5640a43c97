"""The question behind a certificate, with contiguity left out.

Owns what is asked: how many clusters of each kind run on each device, and how many are kept elsewhere, at the least
predicted time. Every plan of whole units answers it, and some answers are no plan, so its optimum is a bound. It knows
no solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from devpolicy._core.placement.cost import per_byte
from devpolicy._core.placement.overflow import movable
from devpolicy._core.placement.search import Problem


@dataclass(frozen=True, slots=True)
class Kind:
    """Clusters that are alike, in bytes and attoseconds of a request."""

    count: int
    weights_and_cache: int
    weights: int
    cache: int
    buffers: int
    read: int
    streamed: int
    rewritten: int
    away: tuple[tuple[str, int], ...]
    """Places where it may be kept, each with the time of bringing it in."""
    bound: bool
    """Whether it runs on the main device in any case."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device: bytes beside what is fixed once it is used, the time of reading a byte, and what it must hold."""

    number: int
    room: int
    required: bool
    weights_only: bool
    rate: int


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One choice of the main device; `main` is `None` where nothing is kept elsewhere."""

    kinds: tuple[Kind, ...]
    devices: tuple[Device, ...]
    main: int | None
    rooms: tuple[tuple[str, int], ...]
    """Bytes left on the CPU, and bytes that may be rewritten to the disk."""
    streaming: int
    """What is streamed in any case, the largest at once."""
    fixed: int
    """Attoseconds of what the rules have settled."""
    crossing: int


def relaxations(problem: Problem) -> Iterator[Relaxation]:
    """Yield the question for each main device that a plan may have; the least of their optima is the bound."""
    world, assignment = problem.world, problem.assignment
    spills = bool(world.policy.overflow) and world.target.maps
    mains: list[int | None] = [*problem.unlike_mains()] if problem.needs_main or spills else []
    if not problem.needs_main:
        mains.append(None)
    for main in mains:
        bins = problem.bins(main)
        if any(one.fixed > one.budget for one in problem.closed(main)):
            continue
        rate = [per_byte(seat.bandwidth) for seat in world.seats]
        devices = tuple(
            Device(number, one.budget - one.fixed, one.required, one.weights_only, rate[number])
            for number, one in bins.items()
        )
        rooms = (("cpu", world.cpu.budget - assignment.cpu_used), ("disk", world.disk.budget - assignment.disk_used))
        fixed = sum(problem.world.costs.read(problem.units[at]) * rate[n] for at, (n, _) in assignment.pinned.items())
        for at, kept in assignment.kept.items():
            unit = problem.units[at]
            assert main is not None  # INVARIANT: what is kept needs a main device
            fixed += world.costs.read(unit) * rate[main]
            fixed += world.costs.streamed(unit, kept.place, link=world.link)
        streaming = problem.streaming
        yield Relaxation(_kinds(problem, main), devices, main, rooms, streaming, fixed, world.costs.crossing)


def _kinds(problem: Problem, main: int | None) -> tuple[Kind, ...]:
    world, units = problem.world, problem.units
    goes = {cluster[0] for cluster in movable(problem)} if main is not None else set()
    bound = set(problem.assignment.with_main)
    places = [term.type for term in world.policy.overflow] if world.target.maps else []
    if any(seat.unified for seat in world.seats):
        places = [place for place in places if place != "cpu"]
    counted: dict[Kind, int] = {}
    clusters = [*problem.clusters, *(c for c in movable(problem) if c[0] in bound)]
    left = bound - {at for cluster in clusters for at in cluster}
    for cluster in [*clusters, *([at] for at in sorted(left))]:
        of = [units[at] for at in cluster]
        away = tuple(
            (place, sum(world.costs.streamed(unit, place, link=world.link) for unit in of))
            for place in places
            if cluster[0] in goes and place != world.kind
        )
        cache, weights = sum(unit.kv_cache for unit in of), sum(unit.weights for unit in of)
        buffers = sum(unit.buffers for unit in of)
        kind = Kind(
            1, weights + buffers + cache, weights, cache, buffers, sum(world.costs.read(unit) for unit in of),
            max(unit.streamed for unit in of), sum(unit.rewritten for unit in of), away, cluster[0] in bound,
        )  # fmt: skip
        counted[kind] = counted.get(kind, 0) + 1
    return tuple(replace(kind, count=count) for kind, count in counted.items())
