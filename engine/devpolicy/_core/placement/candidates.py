"""What `overflow` may offload, in which order, and to which places.

Owns the candidates and their price: what has to be transferred for each byte that is freed. `overflow` chooses among
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from devpolicy._core.connected import connected_components
from devpolicy._core.errors import Diagnostic
from devpolicy._core.placement.apply_rules import Offload, is_elsewhere, offload_error, storage_bytes
from devpolicy._core.placement.divide import Cluster
from devpolicy._core.placement.search import Problem

OVERFLOW = "overflow"
"""The name under which a plan says that a unit is offloaded for want of room."""

SCANNED = 512
"""Up to so many candidates everything is tried that may be better; beyond, what is near."""

Offloads = Mapping[int, Offload]
Notes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Clusters in the order in which they go, the place of each unit if all before it go, and what finds no place."""

    order: tuple[Cluster, ...]
    places: Offloads
    transferred: Mapping[Cluster, int]
    """The bytes that are brought in for each in a request while it is offloaded."""
    prices: Mapping[Cluster, Fraction]
    """The same for each byte that offloading it frees."""
    notes: Notes


def candidates_of(problem: Problem) -> Candidates:
    """Return the clusters that may be offloaded, each with the first place that has room.

    First what has to be transferred least often for each byte that it frees: an encoder runs once for a request, a tied
    head and its embedding are transferred twice for each token. Where that is the same, whole blocks come first, the
    last one before the others: each module inside is small, and so is what it needs on the main device for a moment.
    Then other modules, the smallest first. Then what has to go as one. A container's own tensors stay, because no
    consumer can keep them elsewhere.
    """
    units, costs = problem.units, problem.context.costs
    transferred = {cluster: sum(costs.transferred_bytes(units[at]) for at in cluster) for cluster in movable(problem)}
    prices = {
        cluster: Fraction(size, sum(units[at].weights for at in cluster)) for cluster, size in transferred.items()
    }

    def rank(cluster: Cluster) -> tuple[Fraction, int, int, int]:
        price = prices[cluster]
        first = units[cluster[0]]
        one_block = first.block is not None and all(units[at].block == first.block for at in cluster)
        if one_block or (first.is_block and len(cluster) == 1):
            return price, 0, 0, -cluster[0]
        size = first.onload_peak if len(cluster) == 1 else sum(units[at].weights for at in cluster)
        return price, min(len(cluster), 2), size, -cluster[0]

    stored = dict(problem.assignment.stored)
    order: list[Cluster] = []
    places: dict[int, Offload] = {}
    notes: list[tuple[str, str]] = []
    for cluster in sorted(prices, key=rank):
        found = _first_place(cluster, problem, stored)
        if isinstance(found, Diagnostic):
            notes.append((units[cluster[0]].path, f"overflow: {found.message}"))
            continue
        order.append(cluster)
        places.update(dict.fromkeys(cluster, found))
        stored[found.place] += sum(storage_bytes(units[at], found.place) for at in cluster)
    return Candidates(tuple(order), places, transferred, prices, tuple(notes))


def movable(problem: Problem) -> list[Cluster]:
    """Return the clusters that may be offloaded, in no order that means anything."""
    units, assignment = problem.units, problem.assignment
    pieces = Counter(unit.block for at, unit in enumerate(units) if at not in assignment.offloaded)
    # What is left of a cut block may go as well, all of it.
    rest: dict[int, list[int]] = {}
    for at in assignment.runs_on_main:
        block = units[at].block
        if block is not None:
            rest.setdefault(block, []).append(at)

    def may_go(cluster: Cluster) -> bool:
        here = Counter(units[at].block for at in cluster)
        whole = all(block is None or here[block] == pieces[block] for block in here)
        stays = any(units[at].direct_tensors_only or at in assignment.choices for at in cluster)
        return whole and not stays and any(units[at].weights for at in cluster)

    on_main = map(tuple, connected_components([*assignment.main_clusters, *rest.values()]))
    return [cluster for cluster in (*assignment.clusters, *on_main) if may_go(cluster)]


def _first_place(cluster: Cluster, problem: Problem, stored: Mapping[str, int]) -> Offload | Diagnostic:
    """Return the first place of `overflow` with room for a cluster, or why there is none."""
    context, units = problem.context, problem.units
    failure: Diagnostic | None = None
    for selector in context.policy.overflow:
        place = selector.type
        if not is_elsewhere(place, problem.context):
            continue
        failure = offload_error(place, None, [units[at] for at in cluster], context, stored)
        if failure is None:
            return Offload(place, OVERFLOW, f"no room on `{context.kind}`, and `overflow` allows `{selector}`")
    return failure or Diagnostic("DP303", "nothing in `overflow` is another place")


def may_store(place: str, cluster: Cluster, problem: Problem) -> bool:
    units = [problem.units[at] for at in cluster]
    fits = is_elsewhere(place, problem.context)
    return fits and offload_error(place, None, units, problem.context, problem.assignment.stored) is None


def best_places(gone: Sequence[Cluster], candidates: Candidates, problem: Problem) -> Offloads | None:
    """Return where `gone` is stored: what is transferred most often takes the first place of `overflow`."""
    if len(problem.context.policy.overflow) == 1 or len(gone) > SCANNED:
        return candidates.places
    stored, better = dict(problem.assignment.stored), dict[int, Offload]()
    for cluster in sorted(gone, key=lambda cluster: -candidates.prices[cluster]):
        found = _first_place(cluster, problem, stored)
        if isinstance(found, Diagnostic):
            return None
        better.update(dict.fromkeys(cluster, found))
        stored[found.place] += sum(storage_bytes(problem.units[at], found.place) for at in cluster)
    return better
