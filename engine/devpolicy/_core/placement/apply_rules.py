"""What the rules of a policy decide for one choice of devices.

Owns the second stage: each unit is offloaded by a rule, pinned to a device by a rule, or left to the search, where what
must share a device forms a cluster. Rules come before the search and are exempt from `split`. `colocate` adds
what the consumer needs beside the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import DeviceSelector, Rule
from devpolicy._core.placement.computing import pin_of, put_by_target
from devpolicy._core.placement.context import PlacementContext, avoids
from devpolicy._core.placement.divide import Cluster, Division, RulePriority, Unit
from devpolicy._core.sizes import format_size


class Refused(Exception):  # noqa: N818 - it is caught inside the planner and never leaves it
    """This entry of `prefer` does not fit: the finding says why."""

    def __init__(self, finding: Diagnostic) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(frozen=True, slots=True)
class Offload:
    """The place of a unit whose weights are stored on the CPU or on disk, and what put them there."""

    place: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the rules decided; units are their positions in the division, devices their numbers in the context."""

    offloaded: Mapping[int, Offload] = field(default_factory=dict)
    pinned: Mapping[int, tuple[int, Rule]] = field(default_factory=dict)
    """Units that a rule runs on a device."""
    choices: Mapping[int, tuple[Rule, tuple[int, ...]]] = field(default_factory=dict)
    """Units that a rule runs on one of several devices, the preferred one first; the search chooses."""
    runs_on_main: Mapping[int, str] = field(default_factory=dict)
    """Units that must run on the main device, each with the reason."""
    main_clusters: tuple[Cluster, ...] = ()
    """The same units as clusters."""
    main: int | None = None
    """The device that must be the main one, because a rule runs such a unit there."""
    clusters: tuple[Cluster, ...] = ()
    """What is left to the search, in execution order of their first units."""
    stored: Mapping[str, int] = field(default_factory=partial(dict, cpu=0, disk=0))
    """Bytes that what is offloaded takes of each place."""
    may_leave: Mapping[int, Rule] = field(default_factory=dict)
    """Units that are left to the search, and that a rule allows to be offloaded where they do not fit."""
    notes: tuple[tuple[str, str], ...] = ()
    """For people: the path of a unit, and why a rule did not decide it."""


def record_offload(
    assignment: Assignment, units: Sequence[Unit], offloaded: Mapping[int, Offload], context: PlacementContext
) -> Assignment:
    """Return an assignment with further units offloaded, and the room that takes.

    Where the target computes on their place, they are pinned there.
    """
    stored, away, pinned = dict(assignment.stored), dict(assignment.offloaded), dict(assignment.pinned)
    for at, offload in offloaded.items():
        number = context.computing_on(offload.place)
        if number is None:
            stored[offload.place] += storage_bytes(units[at], offload.place)
            away[at] = offload
        else:
            pinned[at] = number, pin_of(offload.rule, offload.reason)
    return replace(assignment, offloaded=away, pinned=pinned, stored=stored)


def storage_bytes(unit: Unit, place: str) -> int:
    """Return the bytes that a unit takes of a place: the disk need hold only what loading must rewrite."""
    return unit.elsewhere if place == "cpu" else unit.rewritten


_Waiting = tuple[Cluster, RulePriority]
"""Units that share a device, and what is left of the rules that match them."""


def apply_rules(
    division: Division, context: PlacementContext, *, choose: bool = False, leaving: Mapping[int, Offload] | None = None
) -> Assignment:
    """Apply the rules. Raises `Refused` where a rule that must hold cannot.

    A rule that names several devices takes the first with room for each unit; with `choose` it leaves that to the
    search, which may take a later one so that everything has room. Of the units that a rule lets `overflow` those in
    `leaving` are offloaded to where it says.
    """
    rules, units, together = context.policy.rules, division.units, division.together
    unruled = [members for members in together if not units[members[0]].rules]
    deciding = _Deciding(units, context, choose, leaving or {}, [0] * len(context.devices), clusters=unruled)
    if context.cpu_number is not None:
        deciding.clusters = []
        for members in unruled:
            deciding.leave(members)
    waiting: list[_Waiting] = [(members, of) for members in together if (of := units[members[0]].rules)]
    # Units come to a rule with `together` once the rules before it are exhausted, so it may take several rounds.
    # Ends: what comes back from a round has fewer rules left.
    while waiting:
        waiting = [left for batch in _batches(waiting, rules) for left in deciding.decide(batch)]
    return replace(
        deciding.result,
        pinned=deciding.pinned,
        choices=deciding.choices,
        clusters=tuple(sorted(deciding.clusters)),
        may_leave=deciding.may_leave,
        notes=tuple(deciding.notes),
    )


def _batches(waiting: Sequence[_Waiting], rules: Sequence[Rule]) -> list[list[_Waiting]]:
    """Return what a rule with `together` is to decide next as one batch, the others each alone; in the order given."""
    batches: dict[int, list[_Waiting]] = {}
    for number, one in enumerate(waiting):
        together = bool(one[1]) and rules[one[1][0]].together
        batches.setdefault(-1 - one[1][0] if together else number, []).append(one)
    return list(batches.values())


@dataclass(slots=True)
class _Deciding:
    """The rules of one attempt at work."""

    units: Sequence[Unit]
    context: PlacementContext
    choose: bool
    leaving: Mapping[int, Offload]
    load: list[int]
    """Bytes that rules run on each device so far."""
    result: Assignment = field(default_factory=Assignment)
    pinned: dict[int, tuple[int, Rule]] = field(default_factory=dict)
    choices: dict[int, tuple[Rule, tuple[int, ...]]] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)
    may_leave: dict[int, Rule] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    named: dict[DeviceSelector, tuple[list[int], str]] = field(default_factory=dict)

    def decide(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Apply the next rule that can decide to a batch; return what waits for another round, with the rules left."""
        members = tuple(sorted(at for part, _ in batch for at in part))
        priority, rules = batch[0][1], self.context.policy.rules
        while priority:
            rule = rules[priority[0]]
            if rule.offload:
                failure = self._offload(members, rule)
            elif rule.prefer:
                failure = self._pin(members, rule)
            elif rule.overflow:
                self._overflow(members, rule)
                return []
            else:
                break
            if failure is None:
                return []
            self.notes.append((self.units[members[0]].path, f"rule `{rule.name}`: {failure.message}"))
            if rule.on_exhausted == "error":
                raise Refused(failure)
            priority = priority[1:]
            if rule.together or (priority and rules[priority[0]].together):
                return [(part, rest[1:] if rule.together else priority) for part, rest in batch]
        self.leave(members)
        return []

    def leave(self, members: Cluster) -> None:
        """Leave units to the search that no rule decides, but for those that the target itself puts somewhere."""
        put = put_by_target(self.units[members[0]], self.context) if len(members) == 1 else None
        number = self.context.cpu_number
        if put is not None and number is not None:
            self.pinned.update(dict.fromkeys(members, (number, put)))
        else:
            self.clusters.append(members)

    def _offload(self, members: Cluster, rule: Rule) -> Diagnostic | None:
        failure: Diagnostic | None = None
        for selector in rule.offload:
            place = selector.type
            reason = rule.reason or f"rule `{rule.name}` stores it on `{selector}`"
            computes = self.context.computing_on(place)
            if computes is not None:
                # Stored where it runs: on a host without an accelerator "cpu" is no other place.
                failure = self._run(members, computes, replace(rule, reason=reason), selector)
            else:
                units = [self.units[at] for at in members]
                failure = offload_error(place, rule, units, self.context, self.result.stored)
                if place == "disk" and all(unit.float32 for unit in units) and self._may_keep_on_cpu(units, rule):
                    place, failure = "cpu", None
                    reason = f"rule `{rule.name}` stores it on `{selector}`, where it would run in another dtype"
                if failure is None:
                    offload = Offload(place, rule.name, reason)
                    self.result = record_offload(self.result, self.units, dict.fromkeys(members, offload), self.context)
            if failure is None:
                return None
        return failure

    def _may_keep_on_cpu(self, units: Sequence[Unit], rule: Rule) -> bool:
        return offload_error("cpu", rule, units, self.context, self.result.stored) is None

    def _overflow(self, members: Cluster, rule: Rule) -> None:
        """Leave the units to the search, or offload them where they do not fit."""
        gone = {at: self.leaving[at] for at in members if at in self.leaving}
        if gone:
            self.result = record_offload(self.result, self.units, gone, self.context)
            self.pinned.update(self.result.pinned)
        else:
            self.may_leave.update(dict.fromkeys(members, rule))
            self.clusters.append(members)

    def _pin(self, members: Cluster, rule: Rule) -> Diagnostic | None:
        failure: Diagnostic | None = None
        choices: dict[int, None] = {}
        for selector in rule.prefer:
            numbers, missing = self._named(selector, self.units[members[0]], rule)
            failure = missing or failure
            for number in numbers:
                if self.choose and rule.on_exhausted == "error":
                    choices[number] = None
                    continue
                failure = self._run(members, number, rule, selector)
                if failure is None:
                    return None
        if not choices:
            return failure
        self.choices.update(dict.fromkeys(members, (rule, tuple(choices))))
        self.clusters.append(members)
        return None

    def _named(self, selector: DeviceSelector, unit: Unit, rule: Rule) -> tuple[list[int], Diagnostic | None]:
        """Return the devices that a selector of a rule names, or why there are none."""
        if selector.type == "cpu" and self.context.kind != "cpu":
            if self.context.cpu_number is not None:
                return [self.context.cpu_number], None
            return [], Diagnostic(
                "DP405",
                f"rule `{rule.name}` runs `{unit.path}` on `cpu` beside `{self.context.kind}`, "
                f"which a device map for `{self.context.target.name}` cannot say",
                rule.place,
                help=_offload_help(unit),
            )
        if selector not in self.named:
            self.named[selector] = self.context.named(selector)
        numbers, reason = self.named[selector]
        if numbers:
            return numbers, None
        return [], Diagnostic(
            "DP302",
            f"rule `{rule.name}` runs `{unit.path}` on `{selector}`, and this plan has no such device",
            rule.place,
            notes=(reason,) if reason else (),
            help='name a device of the host, or set `on_exhausted = "next"`',
        )

    def _run(self, members: Cluster, number: int, rule: Rule, selector: DeviceSelector) -> Diagnostic | None:
        """Run the units on one device, or return why it has no room."""
        need = bytes_on(number, (self.units[at] for at in members), self.context)
        room = self.context.devices[number].budget - self.context.fixed(number) - self.load[number]
        if need <= room:
            self.load[number] += need
            self.pinned.update(dict.fromkeys(members, (number, rule)))
            return None
        return Diagnostic(
            "DP302",
            f"rule `{rule.name}` runs `{self.units[members[0]].path}` on `{selector}`: it needs {format_size(need)}, "
            f"and {format_size(max(0, room))} are left on `{self.context.devices[number]}`",
            rule.place,
            help='name further devices in the rule, or set `on_exhausted = "next"`',
        )


def _offload_help(unit: Unit) -> str:
    """Return the way out for a module that a rule runs on the CPU: to keep it there, where that frees anything."""
    if unit.weights > unit.onload_peak:
        return '`offload = "cpu"` keeps the weights there and runs them on the accelerator'
    return 'leave the rule out: kept there by `offload = "cpu"`, the module would be brought in whole, and free nothing'


def _beside_help(context: PlacementContext) -> str:
    """Return the way out where a scheme keeps nothing elsewhere: another one may leave that as it is."""
    schemes = context.target.abilities.schemes
    stays = [name for name, support in schemes.items() if support.whole_beside]
    stay = "keep it on the devices that run the model, or plan more of them"
    if not stays or context.kind == "cpu":
        return stay
    name = context.held.scheme if context.held.scheme in stays else stays[0]
    of = "the checkpoint that it was made from with " if context.tree.quantization is not None else ""
    return f'{stay}; or plan {of}`loading.quantization = "{name}"`, which leaves offloaded weights unquantised'


def is_elsewhere(place: str, context: PlacementContext) -> bool:
    """Whether storing on `place` frees anything: where the pool is shared, the CPU is no other place."""
    return place != context.kind and not (place == "cpu" and context.unified)


def bytes_on(number: int, units: Iterable[Unit], context: PlacementContext) -> int:
    """Return the bytes that units take on a device which stores and executes them."""
    return sum(context.needs(number, unit.resident, context.while_running(unit)) for unit in units)


def offload_error(
    place: str, rule: Rule | None, units: Sequence[Unit], context: PlacementContext, stored: Mapping[str, int]
) -> Diagnostic | None:
    """Return why `units` cannot be stored on `place` beside what is `stored` there, or `None` where they can."""
    said = None if rule is None else rule.place
    who = "`overflow`" if rule is None else f"rule `{rule.name}`"
    # Of a rule it is an error that names the module; of `overflow` a remark about one.
    keeps = "cannot keep it" if rule is None else f"{who} keeps `{units[0].path}`"
    if avoids(context.policy, place):
        return Diagnostic(
            "DP302", f"{keeps} on `{place}`, which `avoid` excludes", said,
            help=f"take `{place}` out of `avoid`, or keep it elsewhere",
        )  # fmt: skip
    if context.target.abilities.keeps.get(place) in (None, "budget", "experts"):  # the engine chooses what it keeps
        takes = "keeps none there" if context.target.abilities.maps else "takes one device"
        return Diagnostic(
            "DP409", f"{who} stores weights on `{place}`, and `{context.target.name}` {takes}", said,
            help=context.target.instead,
        )  # fmt: skip
    if place not in context.held.beside:
        return Diagnostic(
            "DP417", f"{keeps} on `{place}`: {context.held.because}", said, help=_beside_help(context),
        )  # fmt: skip
    if place == "cpu" and context.kind == "mps":
        return Diagnostic(
            "DP406", f"{who} stores weights on `cpu`, and accelerate would load them on `mps`", said,
            help="keep them on `disk`",
        )  # fmt: skip
    if place == "disk" and any(unit.float32 for unit in units):
        dtype, name = context.sizing.dtype, next(unit.float32 for unit in units if unit.float32)
        return Diagnostic(
            "DP413", f"{keeps} on disk, where `{name}` would run in {dtype}, and loading keeps it in float32", said,
            help='ask for another dtype: `workload.dtype = "float32"`; or keep it on `cpu`',
        )  # fmt: skip
    need = sum(storage_bytes(unit, place) for unit in units)
    if place == "disk" and need and context.policy.disk_path is None:
        return Diagnostic(
            "DP402",
            f"{keeps} on disk, where loading must rewrite {format_size(need)}, and the policy names no folder",
            said,
            help='add `[memory.disk]` with `path = "offload"`: a folder, relative to the policy file',
        )
    room = (context.cpu if place == "cpu" else context.disk).budget - stored[place]
    if need > room:
        return Diagnostic(
            "DP303",
            f"{keeps} on `{place}`: it needs {format_size(need)}, and {format_size(max(0, room))} are left there",
            said,
            help=f"free memory on `{place}`, or keep less there",
        )
    return None
