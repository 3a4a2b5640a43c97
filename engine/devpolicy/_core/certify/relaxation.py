"""The question behind a certificate, with contiguity left out.

Owns what is asked: how many clusters of each kind run on each device, and how many are offloaded, at the least
predicted time. Every plan of whole units answers it, and some answers are no plan, so its optimum is a bound. It knows
no solver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from devpolicy._core.placement.candidates import movable
from devpolicy._core.placement.colocate import allowed_devices
from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.search import Problem


@dataclass(frozen=True, slots=True)
class Kind:
    """Clusters that are alike, in bytes and attoseconds of a request."""

    count: int
    weights_and_cache: int
    weights: int
    cache: int
    buffers: int
    times: tuple[int, ...]
    """Attoseconds on each device of the host."""
    onload_peak: int
    rewritten: int
    away: tuple[tuple[str, int], ...]
    """Places where it may be stored, each with the time of transferring it."""
    runs_on_main: bool
    """Whether it runs on the main device in any case."""
    allowed: tuple[int, ...] | None
    """The devices that a rule names; `None` where it may run on any."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device: bytes beside what is fixed once it is used, and what it must hold."""

    number: int
    room: int
    required: bool
    weights_only: bool


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One choice of the main device; `main` is `None` where nothing is offloaded."""

    kinds: tuple[Kind, ...]
    devices: tuple[Device, ...]
    main: int | None
    rooms: tuple[tuple[str, int], ...]
    """Bytes left on the CPU, and bytes that may be rewritten to the disk."""
    streaming: int
    """What is streamed in any case, the largest at once."""
    fixed: int
    """Attoseconds of what the rules have settled."""
    device_hop: int
    """Attoseconds of one hand-over."""


def relaxations(problem: Problem) -> Iterator[Relaxation]:
    """Yield the question for each main device that a plan may have; the least of their optima is the bound."""
    context, assignment = problem.context, problem.assignment
    spills = bool(context.policy.overflow) and context.target.abilities.maps
    mains: list[int | None] = [*problem.main_candidates(dominated=False)] if problem.needs_main or spills else []
    if not problem.needs_main:
        mains.append(None)
    costs = context.costs
    for main in mains:
        bins, closed = problem.bins(main)
        if any(one.fixed > one.budget for one in closed.values()):
            continue
        usable = {**problem.chosen_bins(main), **bins}
        devices = tuple(
            Device(number, one.budget - one.fixed, one.required, one.weights_only)
            for number, one in sorted(usable.items())
        )
        rooms = (
            ("cpu", context.cpu.budget - assignment.stored["cpu"]),
            ("disk", context.disk.budget - assignment.stored["disk"]),
        )
        fixed = sum(
            costs.time(problem.units[at], context.speeds[number]) for at, (number, _) in assignment.pinned.items()
        )
        for at, offload in assignment.offloaded.items():
            unit = problem.units[at]
            assert main is not None  # INVARIANT: what is offloaded needs a main device
            fixed += costs.time(unit, context.speeds[main]) + costs.transfer_time(
                unit, offload.place, link=context.link
            )
        yield Relaxation(_kinds(problem, main), devices, main, rooms, problem.streaming, fixed, costs.device_hop)


def _kinds(problem: Problem, main: int | None) -> tuple[Kind, ...]:
    context, units, assignment = problem.context, problem.units, problem.assignment
    costs = context.costs
    goes = {cluster[0] for cluster in movable(problem)} if main is not None else set()
    on_main = set(assignment.runs_on_main)
    places = [selector.type for selector in context.policy.overflow] if context.target.abilities.maps else []
    if context.unified:
        places = [place for place in places if place != "cpu"]
    counted: dict[Kind, int] = {}

    def times(members: Sequence[Unit]) -> tuple[int, ...]:
        return tuple(sum(costs.time(unit, speed) for unit in members) for speed in context.speeds)

    clusters = [*assignment.clusters, *(cluster for cluster in movable(problem) if cluster[0] in on_main)]
    left = on_main - {at for cluster in clusters for at in cluster}
    for cluster in [*clusters, *((at,) for at in sorted(left))]:
        of = [units[at] for at in cluster]
        away = tuple(
            (place, sum(costs.transfer_time(unit, place, link=context.link) for unit in of))
            for place in places
            if cluster[0] in goes and place != context.kind
        )
        cache, weights = sum(context.while_running(unit) for unit in of), sum(unit.weights for unit in of)
        buffers = sum(unit.buffers for unit in of)
        kind = Kind(
            1, weights + buffers + cache, weights, cache, buffers, times(of), max(unit.onload_peak for unit in of),
            sum(unit.rewritten for unit in of), away, cluster[0] in on_main, allowed_devices(cluster, assignment),
        )  # fmt: skip
        counted[kind] = counted.get(kind, 0) + 1
    return tuple(replace(kind, count=count) for kind, count in counted.items())
