"""What the rules of a policy decide for one choice of devices.

Owns the first part of a trial: each unit is kept elsewhere by a rule, pinned to a device by a rule,
or left to the search, where what must share a device forms a cluster. Rules come before the search and
are exempt from `split`. What the consumer needs beside the rules is the matter of `blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from devpolicy._core.device import DeviceType
from devpolicy._core.errors import Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy, Rule, Term
from devpolicy._core.placement.cost import Costs
from devpolicy._core.placement.seats import Found, Seat, avoids, find
from devpolicy._core.placement.sizing import Sizing
from devpolicy._core.placement.targets import Target
from devpolicy._core.placement.trace import Trace
from devpolicy._core.placement.units import Chain, Unit
from devpolicy._core.sizes import format_size


class Refused(Exception):  # noqa: N818 - it is caught inside the planner and never leaves it
    """This term cannot serve: the finding says why."""

    def __init__(self, finding: Diagnostic) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(slots=True)
class World:
    """What one trial has: the seats of the plan's type, which of them the search may use, and where to keep."""

    kind: str
    """The type of device that the plan executes on."""
    seats: tuple[Seat, ...]
    """All usable devices of that type, in id order; a rule may name any of them."""
    open: frozenset[int]
    """Numbers of the seats that the term of `prefer` allows to the search."""
    cpu: Seat
    disk: Seat
    target: Target
    policy: Policy
    host: Host
    sizing: Sizing
    costs: Costs
    _found: dict[Term, Found] = field(default_factory=dict)

    @property
    def link(self) -> bool:
        """Whether what is kept elsewhere comes over a link: not where everything is one memory."""
        return self.kind != "cpu" and not any(seat.unified for seat in self.seats)

    def named(self, term: Term) -> tuple[list[int], str]:
        """Return the numbers of the seats that a rule's term names, and where there are none, why."""
        found = self._found.get(term)
        if found is None:
            found = self._found[term] = find(term, self.policy, self.host)
        devices = {seat.device for seat in found.seats}
        return [number for number, seat in enumerate(self.seats) if seat.device in devices], found.reason

    def beside(self, main: int) -> set[int]:
        """Return the seats that a plan may use with `main` as its main device while weights are kept elsewhere.

        accelerate takes as its main device the first of a Python set of the map's values, and streams what is kept
        there. Integers of one group of eight are in order in any such set; across groups, and for the
        text that names devices other than CUDA's, the order is left to chance.
        """
        device = self.seats[main].device
        if device.type is not DeviceType.GPU:
            return {main}
        group = (device.id or 0) // 8
        return {
            number for number, seat in enumerate(self.seats) if number >= main and (seat.device.id or 0) // 8 == group
        }

    def activations(self, number: int) -> int:
        """Bytes that seat `number` needs once it executes anything."""
        stated = self.seats[number].activations
        return self.sizing.activations if stated is None else stated

    def cache(self, number: int, unit: Unit) -> int:
        """Bytes of KV cache that `unit` adds on seat `number`."""
        return unit.kv_cache if self.seats[number].kv_cache is None else 0

    def base(self, number: int) -> int:
        """Bytes that seat `number` needs before anything is placed on it."""
        return self.activations(number) + (self.seats[number].kv_cache or 0)


@dataclass(slots=True)
class Kept:
    """A unit whose weights stay on the CPU or on disk, and who said so."""

    place: str
    rule: str
    reason: str


@dataclass(slots=True)
class Assignment:
    """What the rules decided; unit numbers are positions in the division."""

    kept: dict[int, Kept] = field(default_factory=dict)
    pinned: dict[int, tuple[int, Rule]] = field(default_factory=dict)
    """Units that a rule runs on a seat."""
    with_main: dict[int, str] = field(default_factory=dict)
    """Units that must run on the main device, each with the reason."""
    bound: list[list[int]] = field(default_factory=list)
    """The same units as clusters."""
    main: int | None = None
    """The seat that must be the main device, because a rule runs such a unit there."""
    clusters: list[list[int]] = field(default_factory=list)
    """What is left to the search: units that share a device, in execution order of their first."""
    cpu_used: int = 0
    disk_used: int = 0


_Waiting = tuple[list[int], Chain]
"""Units that share a device, and what is left of the rules that speak for them."""


def assign(units: Sequence[Unit], groups: Sequence[Sequence[int]], world: World, trace: Trace) -> Assignment:
    """Apply the rules. Raises `Refused` where a rule that must hold cannot."""
    rules, deciding = world.policy.rules, _Deciding(units, world, trace, [0] * len(world.seats))
    waiting: list[_Waiting] = [(members, units[members[0]].chain) for members in _tied(len(units), groups)]
    # Units come to a rule with `together` once the rules before it are exhausted, so it may take several rounds.
    # Ends: what comes back from a round has fewer rules left.
    while waiting:
        waiting = [left for batch in _batches(waiting, rules) for left in deciding.decide(batch)]
    return deciding.result


def _tied(count: int, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return units `range(count)` as those of each group (groups are disjoint) and the others one by one."""
    group_of = {at: group for group in groups for at in group}
    tied = (list(group_of.get(at, (at,))) for at in range(count))
    return [members for at, members in enumerate(tied) if members[0] == at]


def _batches(waiting: Sequence[_Waiting], rules: Sequence[Rule]) -> list[list[_Waiting]]:
    """Return what a rule with `together` is to decide next as one batch, the others each alone; in the order given."""
    batches: dict[int, list[_Waiting]] = {}
    for number, one in enumerate(waiting):
        together = bool(one[1]) and rules[one[1][0]].together
        batches.setdefault(-1 - one[1][0] if together else number, []).append(one)
    return list(batches.values())


@dataclass(slots=True)
class _Deciding:
    """The rules of one trial at work."""

    units: Sequence[Unit]
    world: World
    trace: Trace
    load: list[int]
    """Bytes that rules run on each seat so far."""
    result: Assignment = field(default_factory=Assignment)

    def decide(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Apply the next rule that serves to a batch; return what waits for another round, with the rules left."""
        members = sorted(at for part, _ in batch for at in part)
        chain, rules = batch[0][1], self.world.policy.rules
        while chain:
            rule = rules[chain[0]]
            if rule.offload:
                failure = self._keep(members, rule)
            elif rule.prefer:
                failure = self._pin(members, rule)
            else:
                break
            if failure is None:
                return []
            self.trace.note(self.units[members[0]].path, f"rule `{rule.name}`: {failure.message}")
            if rule.on_exhausted == "error":
                raise Refused(failure)
            chain = chain[1:]
            if rule.together or (chain and rules[chain[0]].together):
                return [(part, rest[1:] if rule.together else chain) for part, rest in batch]
        self.result.clusters.append(members)
        return []

    def _keep(self, members: list[int], rule: Rule) -> Diagnostic | None:
        failure: Diagnostic | None = None
        for term in rule.offload:
            reason = rule.reason or f"rule `{rule.name}` keeps it on `{term}`"
            if term.type == self.world.kind:
                # Kept where it runs: on a host without an accelerator "cpu" is no other place.
                failure = self._run(members, 0, replace(rule, reason=reason), term)
            else:
                failure = no_place(term.type, rule, [self.units[at] for at in members], self.world, self.result)
                if failure is None:
                    for at in members:
                        keep(at, self.units[at], Kept(term.type, rule.name, reason), self.result)
            if failure is None:
                return None
        return failure

    def _pin(self, members: list[int], rule: Rule) -> Diagnostic | None:
        path, failure = self.units[members[0]].path, None
        for term in rule.prefer:
            if term.type == "cpu" and self.world.kind != "cpu":
                failure = Diagnostic(
                    "DP405",
                    f"rule `{rule.name}` runs `{path}` on `cpu` beside `{self.world.kind}`, "
                    f"which a device map for `{self.world.target.name}` cannot say",
                    rule.place,
                    help='`offload = "cpu"` keeps the weights there and runs them on the accelerator',
                )
                continue
            numbers, reason = self.world.named(term)
            if not numbers:
                failure = Diagnostic(
                    "DP302",
                    f"rule `{rule.name}` runs `{path}` on `{term}`, and this plan has no such device",
                    rule.place,
                    notes=(reason,) if reason else (),
                    help='name a device of the host, or set `on_exhausted = "next"`',
                )
                continue
            for number in numbers:
                failure = self._run(members, number, rule, term)
                if failure is None:
                    return None
        return failure

    def _run(self, members: list[int], number: int, rule: Rule, term: Term) -> Diagnostic | None:
        """Run the units on one seat, or return why it has no room."""
        need = sum(self.units[at].resident + self.world.cache(number, self.units[at]) for at in members)
        room = self.world.seats[number].budget - self.world.base(number) - self.load[number]
        if need <= room:
            self.load[number] += need
            self.result.pinned.update(dict.fromkeys(members, (number, rule)))
            return None
        return Diagnostic(
            "DP302",
            f"rule `{rule.name}` runs `{self.units[members[0]].path}` on `{term}`: it needs {format_size(need)}, "
            f"and {format_size(max(0, room))} are left on `{self.world.seats[number]}`",
            rule.place,
            help='name further devices in the rule, or set `on_exhausted = "next"`',
        )


def keep(at: int, unit: Unit, kept: Kept, result: Assignment) -> None:
    """Note that a unit is kept elsewhere, and what room that takes."""
    result.kept[at] = kept
    if kept.place == "cpu":
        result.cpu_used += unit.weights
    else:
        result.disk_used += unit.rewritten


def no_place(
    place: str, rule: Rule | None, units: Sequence[Unit], world: World, result: Assignment
) -> Diagnostic | None:
    """Return why `units` cannot be kept on `place`, or `None` where they can."""
    said = None if rule is None else rule.place
    who = "`overflow`" if rule is None else f"rule `{rule.name}`"
    # Of a rule it is an error that names the module; of `overflow` a remark about one.
    keeps = "cannot keep it" if rule is None else f"{who} keeps `{units[0].path}`"
    if avoids(world.policy, place):
        return Diagnostic(
            "DP302", f"{keeps} on `{place}`, which `avoid` excludes", said,
            help=f"take `{place}` out of `avoid`, or keep it elsewhere",
        )  # fmt: skip
    if not world.target.maps:
        return Diagnostic(
            "DP409", f"{who} keeps weights on `{place}`, and `{world.target.name}` takes one device", said,
            help=world.target.instead,
        )  # fmt: skip
    if place == "cpu" and world.kind == "mps":
        return Diagnostic(
            "DP406", f"{who} keeps weights on `cpu`, and accelerate would load them on `mps`", said,
            help="keep them on `disk`",
        )  # fmt: skip
    if place == "cpu":
        room = world.cpu.budget - result.cpu_used
        need = sum(unit.weights for unit in units)
    else:
        room = world.disk.budget - result.disk_used
        need = sum(unit.rewritten for unit in units)
        if need and world.policy.disk_path is None:
            return Diagnostic(
                "DP402",
                f"{keeps} on disk, where loading must rewrite {format_size(need)}, and the policy names no folder",
                said,
                help='add `[memory.disk]` with `path = "offload"`: a folder, relative to the policy file',
            )
    if need > room:
        return Diagnostic(
            "DP303",
            f"{keeps} on `{place}`: it needs {format_size(need)}, and {format_size(max(0, room))} are left there",
            said,
            help=f"free memory on `{place}`, or keep less there",
        )
    return None
