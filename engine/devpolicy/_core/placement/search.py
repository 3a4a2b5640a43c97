"""The second half of a trial: what the rules left open is placed on the seats.

Owns `split` and the main device; what is the fastest is the matter of `fastest`. Everything that is kept elsewhere
runs on the main device, the lowest seat that the plan uses, and is charged there; so each seat that might be the main
one is tried, and the solver answers for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import Rule
from devpolicy._core.placement import solver
from devpolicy._core.placement.rules import Assignment, Kept, Refused, World
from devpolicy._core.placement.seats import Seat
from devpolicy._core.placement.solver import Bin, Ends, Sums
from devpolicy._core.placement.units import Unit
from devpolicy._core.sizes import format_size


@dataclass(frozen=True, slots=True)
class Solution:
    """Where every unit runs, and which are kept elsewhere."""

    seat: list[int]
    """For each unit the number of the seat that executes it."""
    kept: dict[int, Kept]
    pinned: dict[int, Rule]
    """Which rule runs a unit where it runs."""
    with_main: dict[int, str]
    main: int


class Problem:
    """The open clusters in execution order, and what is charged to seats whatever the search does."""

    def __init__(self, units: Sequence[Unit], assignment: Assignment, world: World) -> None:
        self.units = units
        self.assignment = assignment
        self.world = world
        self.clusters = assignment.clusters
        self.sums = Sums.of(
            [sum(units[at].resident for at in cluster) for cluster in self.clusters],
            [sum(units[at].kv_cache for at in cluster) for cluster in self.clusters],
        )
        self.pinned: dict[int, int] = {}
        for at, (number, _) in assignment.pinned.items():
            load = units[at].resident + world.cache(number, units[at])
            self.pinned[number] = self.pinned.get(number, 0) + load
        away = [units[at] for at in assignment.kept]
        rest = [units[at] for at in assignment.with_main]
        # What is kept elsewhere still has its buffers, its KV cache and its largest module's weights, for a
        # moment, on the main device.
        self.streaming = max((unit.streamed for unit in away), default=0)
        self.main_load = sum(unit.buffers for unit in away) + sum(unit.resident for unit in rest)
        self.main_cache = sum(unit.kv_cache for unit in (*away, *rest))
        self.needs_main = bool(away or rest) or assignment.main is not None

    def mains(self) -> Iterator[int | None]:
        """Yield each seat that may be the main device; `None` once where nothing depends on it."""
        if not self.needs_main:
            yield None
            return
        yield from (number for number, _ in self._mains())

    def _mains(self) -> Iterator[tuple[int, set[int]]]:
        """Yield the seats that rules and the term allow as the main device, each with those that it may use."""
        lowest_pin = min(self.pinned, default=len(self.world.seats))
        for number in range(len(self.world.seats)):
            usable = number in self.world.open or number == lowest_pin
            beside = self.world.beside(number)
            if (
                number <= lowest_pin
                and usable
                and self.assignment.main in (None, number)
                and beside.issuperset(self.pinned)
            ):
                yield number, beside

    def unlike_mains(self) -> Iterator[int]:
        """Yield of the seats that may be the main device those that may do what no earlier one may.

        A later one that is like an earlier one and may use no other seats is never faster.
        """
        seen: list[tuple[object, set[int]]] = []
        for number, beside in self._mains():
            seat = self.world.seats[number]
            kind = (seat.budget, seat.bandwidth, seat.kv_cache, seat.activations, number in self.pinned)
            if not any(kind == other and beside <= wider for other, wider in seen):
                seen.append((kind, beside))
                yield number

    def bins(self, main: int | None) -> dict[int, Bin]:
        """Return the seats that the clusters may use, by number, when `main` is the main device."""
        beside = self.world.open if main is None else self.world.beside(main) & self.world.open
        return {number: self._bin(number, main) for number in sorted(beside)}

    def closed(self, main: int | None) -> list[Bin]:
        """Return the seats outside the term: they hold what rules pin to them, and no clusters."""
        used = self.pinned if main is None else {*self.pinned, main}
        return [self._bin(number, main) for number in sorted(used) if number not in self.world.open]

    def _bin(self, number: int, main: int | None) -> Bin:
        seat = self.world.seats[number]
        fixed = self.world.base(number) + self.pinned.get(number, 0)
        if number == main:
            fixed += self.streaming + self.main_load + (self.main_cache if seat.kv_cache is None else 0)
        if seat.unified:
            # With one pool for both, what is kept on the CPU's side takes the accelerator's memory.
            fixed += self.assignment.cpu_used
        return Bin(seat.budget, fixed, number in self.pinned or number == main, seat.kv_cache is not None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to place the open clusters."""

    problem: Problem
    ends: dict[int, int]
    """For each seat the end of its run in the list of clusters."""
    main: int
    used: int
    """Seats that hold anything."""
    peak: Fraction
    time: int = 0
    """Predicted attoseconds of a request, where `split` goes by them."""

    def rank(self) -> tuple[int, int, Fraction, int]:
        """Least time, fewest devices (`balanced` wants all), least share of a budget, lowest main device."""
        balanced = self.problem.world.policy.split == "balanced"
        return self.time, 0 if balanced else self.used, self.peak, self.main

    def solution(self) -> Solution:
        """Return the seat of every unit."""
        assignment = self.problem.assignment
        seat = [self.main] * len(self.problem.units)
        for at, (number, _) in assignment.pinned.items():
            seat[at] = number
        start = 0
        for number, end in self.ends.items():
            for cluster in self.problem.clusters[start:end]:
                for at in cluster:
                    seat[at] = number
            start = end
        pinned = {at: rule for at, (_, rule) in assignment.pinned.items()}
        return Solution(seat, assignment.kept, pinned, assignment.with_main, self.main)


def place(problem: Problem) -> Attempt | None:
    """Return the best attempt under the policy's `split`, or `None` where it does not all fit."""
    if problem.world.policy.split == "fastest":
        from devpolicy._core.placement.fastest import fastest  # it needs what stands here

        mains = problem.unlike_mains() if problem.needs_main else (None,)
        attempts = [found for main in mains if (found := fastest(problem, main)) is not None]
        return min(attempts, key=Attempt.rank, default=None)
    return _best(problem, _split(problem))


def place_anyhow(problem: Problem) -> Attempt | None:
    """Return any attempt that fits: as `place`, without a search for the best. `split = "never"` still holds."""
    how = _single if problem.world.policy.split == "never" else solver.fill
    attempts = (attempt for main in problem.mains() if (attempt := _attempt(problem, main, how)) is not None)
    return next(attempts, None)


Split = Callable[[Sums, Sequence[Bin]], Ends | None]


def _best(problem: Problem, split: Split) -> Attempt | None:
    attempts = [attempt for main in problem.mains() if (attempt := _attempt(problem, main, split)) is not None]
    return min(attempts, key=Attempt.rank, default=None)


def _attempt(problem: Problem, main: int | None, split: Split) -> Attempt | None:
    numbered, closed = problem.bins(main), problem.closed(main)
    if any(one.fixed > one.budget for one in closed):
        return None
    sums, first = problem.sums, 0
    if main is not None and main not in problem.pinned and not problem.assignment.with_main:
        # The map has to name the main device, else its consumer takes another one: the first cluster runs there.
        if not problem.clusters:
            return None
        first = 1
        numbered[main] = numbered[main].with_first(sums)
        sums = sums.without_first()
    bins = list(numbered.values())
    ends = split(sums, bins)
    if ends is None:
        return None
    used = [
        number
        for (number, one), start, end in zip(numbered.items(), [0, *ends], ends, strict=False)
        if end > start or one.required
    ]
    count = len(used) + len(closed)
    # One device of several: the lowest that serves, however full it is.
    lowest_serves = count == 1 and problem.world.policy.split != "balanced"
    shares = [solver.peak_of(sums, bins, ends), *(Fraction(one.fixed, max(1, one.budget)) for one in closed)]
    lowest = min([*used, *problem.pinned], default=next(iter(numbered), 0))
    ends_of = {number: first + end for number, end in zip(numbered, ends, strict=True)}
    return Attempt(
        problem, ends_of, lowest if main is None else main, count, Fraction(0) if lowest_serves else max(shares)
    )


def _split(problem: Problem) -> Split:
    splits: dict[str, Split] = {"never": _single, "when-needed": _when_needed, "balanced": solver.least_peak}
    return splits[problem.world.policy.split]


def _single(sums: Sums, bins: Sequence[Bin]) -> Ends | None:
    """Everything open on one seat: the lowest that holds it, of the seats in use already if one of them does."""
    if any(one.required and one.fixed > one.budget for one in bins):
        return None
    for at in sorted(range(len(bins)), key=lambda at: not bins[at].required):
        if solver.fits(sums, bins[at]):
            return [0] * at + [len(sums)] * (len(bins) - at)
    return None


def _when_needed(sums: Sums, bins: Sequence[Bin]) -> Ends | None:
    single = _single(sums, bins)
    if single is not None:
        return single
    found = solver.fewest(sums, bins, sum(not one.required for one in bins))
    if found is None:
        return None
    taken = zip(bins, [0, *found], found, strict=False)
    return solver.least_peak(sums, bins, sum(end > start and not one.required for one, start, end in taken))


def no_room(problem: Problem) -> Refused:
    """Return the refusal of a term whose devices do not hold what is open."""
    world, assignment = problem.world, problem.assignment
    if problem.units and not (problem.clusters or assignment.pinned or assignment.with_main):
        return Refused(
            Diagnostic(
                "DP411",
                f"everything is kept elsewhere, and nothing is left that would run on `{world.kind}`",
                help="leave some module where it runs",
            )
        )
    if next(problem.mains(), problem) is problem:
        return Refused(
            Diagnostic(
                "DP410",
                f"weights are kept elsewhere, and rules run modules on `{world.kind}` devices "
                f"that leave the main device to chance",
                help="run them on one device, or keep nothing elsewhere",
            )
        )
    seats = [seat for number, seat in enumerate(world.seats) if number in world.open]
    largest = max(seats, key=lambda seat: seat.budget)
    together = problem.streaming + problem.main_load + problem.main_cache
    together += min((world.base(number) for number in world.open), default=0)
    if assignment.with_main and len(seats) > 1 and together > largest.budget:
        why = next(iter(assignment.with_main.values()))
        return Refused(
            Diagnostic(
                "DP301",
                f"{why}: that needs {format_size(together)}, and the largest device, `{largest}`, "
                f"has {format_size(max(0, largest.budget))} {_left_by([largest])}",
            )
        )
    need = problem.sums.with_cache[-1] + sum(problem.pinned.values()) + problem.main_load + problem.main_cache
    need += problem.streaming + min((world.base(number) for number in world.open), default=0)
    need += assignment.cpu_used if any(seat.unified for seat in world.seats) else 0
    names = f"`{seats[0]}`" if len(seats) == 1 else f"{len(seats)} `{world.kind}` devices"
    have = f"{format_size(max(0, sum(max(0, seat.budget) for seat in seats)))} {_left_by(seats)}"
    if world.policy.split == "never" and len(seats) > 1:
        names, have = (
            f"one `{world.kind}` device",
            f"the largest, `{largest}`, has {format_size(max(0, largest.budget))} {_left_by([largest])}",
        )
        message = f"needs {format_size(need)} on {names}, and {have}"
    else:
        verb = "has" if len(seats) == 1 else "have"
        message = f"needs {format_size(need)}, and {names} {verb} {have}"
    return Refused(Diagnostic("DP301", message))


def _left_by(seats: Sequence[Seat]) -> str:
    """Say what was taken off before the figure of a budget: headroom, other components, all but a share."""
    taken = "after headroom and other components" if any(seat.others for seat in seats) else "after headroom"
    return f"{taken}, within its share" if any(seat.share for seat in seats) else taken
