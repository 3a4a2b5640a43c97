"""What does not fit is offloaded, as little as possible.

Owns `overflow`: which units go (those that cost least for what they free), and to which place. `search` and
`scatter` place the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from devpolicy._core.connected import connected_components
from devpolicy._core.cost.prediction import milliseconds
from devpolicy._core.errors import Diagnostic
from devpolicy._core.placement import exact
from devpolicy._core.placement.apply_rules import (
    Assignment,
    Cluster,
    Offload,
    is_elsewhere,
    offload_error,
    record_offload,
    storage_bytes,
)
from devpolicy._core.placement.scatter import fit_in_any_order, place_in_any_order
from devpolicy._core.placement.search import Attempt, Problem
from devpolicy._core.sizes import format_size

OVERFLOW = "overflow"
"""The name under which a plan says that a unit is offloaded for want of room."""

_SCANNED = 512
"""Up to so many candidates every count is tried; beyond, the least count is bracketed by doubling and halved."""

_TRIED = 6
_EXCHANGES = 3
"""So many ways to offload less are tried, once it is known how many clusters must go."""

Offloads = Mapping[int, Offload]
Notes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Spilled:
    """An attempt with a part of the model offloaded, and for people what was considered."""

    attempt: Attempt
    notes: Notes


def spill(problem: Problem) -> Spilled | None:
    """Offload what costs least and lets the rest fit. Returns `None` where nothing does."""
    context = problem.context
    if not context.policy.overflow or not context.target.abilities.maps:
        return None
    order, places, notes = _places(_candidates(problem), problem)

    def without(gone: Sequence[Cluster]) -> Problem | None:
        offloads = _best_places(gone, places, problem)
        return None if offloads is None else replace(problem, assignment=_without(problem, gone, offloads))

    gone, placed = _cheapest_first(problem, order, without)
    better = _exact(problem, order, gone, placed)
    if better is not None:
        gone, placed = better
    return None if placed is None else Spilled(placed, (*notes, *_explained(gone, order, placed)))


def _cheapest_first(
    problem: Problem, order: list[Cluster], without: Callable[[Sequence[Cluster]], Problem | None]
) -> tuple[list[Cluster], Attempt | None]:
    """Return the least part of `order` that must go, mended by exchanges, and how the rest is placed then."""

    def attempt(count: int) -> Attempt | None:
        left = without(order[:count])
        return None if left is None else fit_in_any_order(left)

    found = _least(_at_least(problem, order), len(order), attempt)
    if found is None:
        return [], None
    gone = _less(order[: found[0]], order, problem, without)
    left = without(gone)
    # What goes is known now; the rest is placed as `split` says.
    placed = None if left is None else place_in_any_order(left)
    return (gone, None) if placed is None else _along(gone, order, placed, without)


def _exact(
    problem: Problem, order: Sequence[Cluster], gone: Sequence[Cluster], placed: Attempt | None
) -> tuple[list[Cluster], Attempt] | None:
    """Return what goes and how the rest is placed where a small problem has something better, else `None`."""
    context = problem.context
    overflow = [selector.type for selector in context.policy.overflow]
    if overflow[:1] == ["disk"] and len(overflow) > 1:
        return None  # the faster place comes last by the policy's own order
    places = {
        at: tuple(place for place in overflow if _may_store(place, cluster, problem))
        for at, cluster in enumerate(problem.assignment.clusters)
        if cluster in order
    }
    by_time = context.policy.split == "fastest"
    cost = None
    if placed is not None:
        cost = placed.time if by_time else sum(_transferred(cluster, problem) for cluster in gone)
    found = exact.search(problem, places, cost)
    if found is None:
        return None
    reason = f"no room on `{context.kind}`, and `overflow` allows `{{}}`"
    gone, offloads = exact.offloads_of(problem, found, OVERFLOW, reason)
    left = replace(problem, assignment=_without(problem, gone, offloads))
    attempt = None if by_time else place_in_any_order(left)
    return gone, attempt or exact.attempt_at(left, found)


def _candidates(problem: Problem) -> list[Cluster]:
    """Clusters that may be offloaded, in the order in which they go.

    First what has to be transferred least often for each byte that it frees: an encoder runs once for a request, a tied
    head and its embedding are transferred twice for each token. Where that is the same, whole blocks come first, the
    last one before the others: each module inside is small, and so is what it needs on the main device for a moment.
    Then other modules, the smallest first. Then what has to go as one. A container's own tensors stay, because no
    consumer can keep them elsewhere.
    """
    units = problem.units

    def rank(cluster: Cluster) -> tuple[Fraction, int, int, int]:
        price = _price(cluster, problem)
        first = units[cluster[0]]
        one_block = first.block is not None and all(units[at].block == first.block for at in cluster)
        if one_block or (first.is_block and len(cluster) == 1):
            return price, 0, 0, -cluster[0]
        size = first.onload_peak if len(cluster) == 1 else sum(units[at].weights for at in cluster)
        return price, min(len(cluster), 2), size, -cluster[0]

    return sorted(movable(problem), key=rank)


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


def _price(cluster: Cluster, problem: Problem) -> Fraction:
    """Return the bytes that are transferred over a request for each byte that offloading the cluster frees."""
    freed = sum(problem.units[at].weights for at in cluster)
    return Fraction(_transferred(cluster, problem), freed)


def _transferred(cluster: Cluster, problem: Problem) -> int:
    return sum(problem.context.costs.transferred_bytes(problem.units[at]) for at in cluster)


def _places(candidates: Sequence[Cluster], problem: Problem) -> tuple[list[Cluster], Offloads, Notes]:
    """Give each candidate the first place with room; those that find none are no candidates."""
    stored = dict(problem.assignment.stored)
    order: list[Cluster] = []
    places: dict[int, Offload] = {}
    notes: list[tuple[str, str]] = []
    for cluster in candidates:
        found = _first_place(cluster, problem, stored)
        if isinstance(found, Diagnostic):
            notes.append((problem.units[cluster[0]].path, f"overflow: {found.message}"))
            continue
        order.append(cluster)
        places.update(dict.fromkeys(cluster, found))
        stored[found.place] += sum(storage_bytes(problem.units[at], found.place) for at in cluster)
    return order, places, tuple(notes)


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


def _may_store(place: str, cluster: Cluster, problem: Problem) -> bool:
    units = [problem.units[at] for at in cluster]
    fits = is_elsewhere(place, problem.context)
    return fits and offload_error(place, None, units, problem.context, problem.assignment.stored) is None


def _best_places(gone: Sequence[Cluster], places: Offloads, problem: Problem) -> Offloads | None:
    """Return where `gone` is stored: what is transferred most often takes the first place of `overflow`."""
    if len(problem.context.policy.overflow) == 1 or len(gone) > _SCANNED:
        return places
    stored, better = dict(problem.assignment.stored), dict[int, Offload]()
    for cluster in sorted(gone, key=lambda cluster: -_price(cluster, problem)):
        found = _first_place(cluster, problem, stored)
        if isinstance(found, Diagnostic):
            return None
        better.update(dict.fromkeys(cluster, found))
        stored[found.place] += sum(storage_bytes(problem.units[at], found.place) for at in cluster)
    return better


def _less(
    gone: list[Cluster], order: Sequence[Cluster], problem: Problem, without: Callable[[list[Cluster]], Problem | None]
) -> list[Cluster]:
    """Return what may stay out of `gone` for the rest to fit still, or `gone` with its last exchanged for less.

    The order takes what is cheap for each byte, and the last that it takes may be more than is missing.
    """
    if len(order) > _SCANNED:
        return gone

    # In another order of the devices than that of their ids, less may do.
    by_time = problem.context.policy.split == "fastest"
    search = place_in_any_order if by_time else fit_in_any_order

    def fits(clusters: list[Cluster]) -> bool:
        left = without(clusters) if clusters else None
        return left is not None and search(left) is not None

    if by_time and fits(gone[:-1]):
        gone = gone[:-1]
    for _ in range(_EXCHANGES):
        less = _exchanged(gone, order, problem, fits)
        if less is gone:
            break
        gone = less
    for one in _unlike(sorted(gone, key=lambda cluster: -_transferred(cluster, problem)), problem)[:_TRIED]:
        rest = [cluster for cluster in gone if cluster is not one]
        gone = rest if fits(rest) else gone
    return gone


def _exchanged(
    gone: list[Cluster], order: Sequence[Cluster], problem: Problem, fits: Callable[[list[Cluster]], bool]
) -> list[Cluster]:
    """Return `gone` with what costs most exchanged for one, or else for several, that together cost less."""
    out = max(reversed(gone), key=lambda cluster: _transferred(cluster, problem))
    rest, most = [cluster for cluster in gone if cluster is not out], _transferred(out, problem)
    others = sorted((one for one in order if one not in gone), key=lambda one: _transferred(one, problem))
    cheaper = [one for one in others if _transferred(one, problem) < most]
    for one in _unlike(cheaper, problem)[:_TRIED]:
        if fits([*rest, one]):
            return [*rest, one]
    several: list[Cluster] = []
    for one in cheaper[:_TRIED]:
        several.append(one)
        if sum(_transferred(other, problem) for other in several) >= most:
            break
        if len(several) > 1 and fits([*rest, *several]):
            return [*rest, *several]
    return gone


def _along(
    gone: list[Cluster], order: Sequence[Cluster], placed: Attempt, without: Callable[[list[Cluster]], Problem | None]
) -> tuple[list[Cluster], Attempt]:
    """Let small modules go along where that saves hand-overs: a norm between a block and a head that are both away."""
    problem = placed.problem
    costs = problem.context.costs
    if problem.context.policy.split != "fastest":
        return gone, placed
    small = (
        cluster
        for cluster in order
        if cluster not in gone
        and sum(costs.transfer_time(problem.units[at], "cpu", link=True) for at in cluster) < 2 * costs.device_hop
    )
    for one in _unlike(small, problem)[:4]:
        left = without([*gone, one])
        found = None if left is None else place_in_any_order(left)
        if found is not None and found.time < placed.time:
            gone, placed = [*gone, one], found
    return gone, placed


def _unlike(clusters: Iterable[Cluster], problem: Problem) -> list[Cluster]:
    """Return the first of those that are alike to the search."""
    kinds: dict[tuple[tuple[int, ...], ...], Cluster] = {}
    for cluster in clusters:
        units = [problem.units[at] for at in cluster]
        kinds.setdefault(tuple((one.weights, one.kv_cache, one.onload_peak, one.rewritten) for one in units), cluster)
    return list(kinds.values())


def _explained(gone: Sequence[Cluster], order: Sequence[Cluster], placed: Attempt) -> Notes:
    """Return for each unit that goes what it frees and adds, and what would have gone instead."""
    problem = placed.problem
    costs, offloaded = problem.context.costs, problem.assignment.offloaded

    def sums(cluster: Cluster, where: str) -> tuple[str, str]:
        units = [problem.units[at] for at in cluster]
        time = sum(costs.transfer_time(unit, where, link=problem.context.link) for unit in units)
        return format_size(sum(unit.weights for unit in units)), milliseconds(time, costs.tokens)

    instead = next((cluster for cluster in order if not any(cluster is one for one in gone)), None)
    notes = []
    for cluster in gone:
        where = offloaded[cluster[0]].place
        size, time = sums(cluster, where)
        text = f"overflow: frees {size}, and is predicted to add {time} to each token"
        if instead is not None:
            size, time = sums(instead, where)
            text += f"; next would be `{problem.units[instead[0]].path}`: {size}, {time}"
        notes += [(problem.units[at].path, text) for at in cluster]
    return tuple(notes)


def _without(problem: Problem, gone: Sequence[Cluster], offloads: Offloads) -> Assignment:
    """Return the assignment with the clusters in `gone` offloaded."""
    left, assignment = {at for cluster in gone for at in cluster}, problem.assignment
    remaining = replace(
        assignment,
        clusters=tuple(cluster for cluster in assignment.clusters if cluster[0] not in left),
        runs_on_main={at: why for at, why in assignment.runs_on_main.items() if at not in left},
        choices={at: choice for at, choice in assignment.choices.items() if at not in left},
    )
    return record_offload(remaining, problem.units, {at: offloads[at] for at in sorted(left)})


def _at_least(problem: Problem, order: Sequence[Cluster]) -> int:
    """Return how many candidates must go at least, by weights alone: a lower bound that costs nothing to find."""
    open_, closed = problem.bins(None)
    bins = {**closed, **problem.chosen_bins(None), **open_}
    room = sum(max(0, one.budget - one.fixed) for one in bins.values())
    total = problem.sums.weights[-1] + sum(problem.units[at].resident for at in problem.assignment.runs_on_main)
    for count, cluster in enumerate(order, start=1):
        total -= sum(problem.units[at].weights for at in cluster)
        if total <= room:
            return count
    return len(order)


def _least(low: int, high: int, attempt: Callable[[int], Attempt | None]) -> tuple[int, Attempt] | None:
    """Return the least count from `low` to `high` that succeeds, with its attempt.

    Offloading more is not always easier, because its KV cache counts on the main device. So
    all counts are tried while they are few.
    """
    if high - low <= _SCANNED:
        counts = range(low, high + 1)
        return next(((count, found) for count in counts if (found := attempt(count)) is not None), None)
    step, bottom = 1, low - 1
    found = attempt(low)
    top = low
    while found is None:
        if top == high:
            return None
        bottom, top = top, min(high, top + step)
        step *= 2
        found = attempt(top)
    while top - bottom > 1:
        middle = (top + bottom) // 2
        tried = attempt(middle)
        if tried is None:
            bottom = middle
        else:
            top, found = middle, tried
    return top, found
