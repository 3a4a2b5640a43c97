"""What must share a device.

Owns two reasons. Tied tensors stay together, and so do those that loading compares to see whether they are tied: a rule
that would part them is refused, takes the whole group along, or does not apply. And what follows from the rules because
of how accelerate runs a map: the pieces of a block stay together, and what must run on the main device does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from devpolicy._core.connected import connected_components
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy, Rule, Ties
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.apply_rules import Assignment, Offload, Refused
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Cluster, Division, Unit, up_to_final
from devpolicy._core.placement.meeting import Meeting, meetings

_CUT = "a rule keeps a part of a block elsewhere, so the block and what it may read execute on the main device"
_MEET = "its output meets that of a module whose weights are stored elsewhere, which executes on the main device"
_OWN = "the consumer moves what the model itself holds to the main device"

Action = tuple[str, tuple[DeviceSelector, ...]]


def colocate_ties(division: Division, tree: ModelTree, policy: ResolvedPolicy) -> Division:
    """Return the division with the groups of units that share a tensor, the units of each under the same rules.

    Raises `Unsatisfiable` (DP401) where a rule parts a group and may not.
    """
    starts = [unit.start for unit in division.units]
    named = (*tree.ties, *tree.loading.compared)
    held = [(tie, holders) for tie in named if len(holders := _holders(tree, starts, tie)) > 1]
    # A head may share its weight with the embedding and its bias with the module around it: that is one group.
    groups = connected_components(sorted(holders) for _, holders in held)
    first_tie: dict[int, tuple[str, ...]] = {}
    for tie, holders in held:
        first_tie.update((at, tie) for at in holders if at not in first_tie)
    units = list(division.units)
    for group in groups:
        tie = first_tie[group[0]]
        agreed = _agreed(tie, [units[at] for at in group], policy, compared=tie in tree.loading.compared)
        for at, unit in zip(group, agreed, strict=True):
            units[at] = unit
    group_of = {at: tuple(group) for group in groups for at in group}
    together = (group_of.get(at, (at,)) for at in range(len(units)))
    together = (members for at, members in enumerate(together) if members[0] == at)
    return replace(division, units=tuple(units), together=tuple(together))


def _holders(tree: ModelTree, starts: list[int], tie: tuple[str, ...]) -> set[int]:
    """The units that hold the tensors of one tie, given where each unit starts."""
    return {bisect_right(starts, tree.index[name.rpartition(".")[0]]) - 1 for name in tie}


def _agreed(tie: tuple[str, ...], members: list[Unit], policy: ResolvedPolicy, *, compared: bool) -> list[Unit]:
    """Return the members under the same rules. Each round drops one rule from all of them, or ends."""
    while len({_action(member, policy.rules) for member in members}) > 1:
        parting = _parting(members, policy)
        if parting is None:
            break
        number, mode = parting
        if mode == "refuse":
            raise Unsatisfiable(_parted(tie, policy.rules[number], members, compared=compared))
        members = [_without_rule(member, number, policy.rules) for member in members]
    winner = min((member.rules for member in members if member.rules), default=())
    return [replace(member, rules=winner) for member in members]


def _without_rule(unit: Unit, number: int, rules: Sequence[Rule]) -> Unit:
    """Return a unit without its first rule, where that is rule `number`."""
    if unit.rules[:1] != (number,):
        return unit
    first, rest = up_to_final((*unit.rules[1:], *unit.fallback_rules), rules)
    return replace(unit, rules=first, fallback_rules=rest)


def _action(member: Unit, rules: Sequence[Rule]) -> Action | None:
    if not member.rules:
        return None
    rule = rules[member.rules[0]]
    if rule.offload:
        return "offload", rule.offload
    return ("prefer", rule.prefer) if rule.prefer else None


def _parting(members: list[Unit], policy: ResolvedPolicy) -> tuple[int, Ties] | None:
    """Find a rule that parts the group and must be refused or skipped; `None` where the rest may be colocated.

    A rule to an executing device takes the group along silently, unless another such rule wants it elsewhere.
    """
    heads = sorted({member.rules[0] for member in members if member.rules})
    for number in heads:
        rule = policy.rules[number]
        mode = rule.ties or policy.ties
        if rule.offload and mode != "follow":
            return number, mode
    running = [number for number in heads if policy.rules[number].prefer]
    if len({policy.rules[number].prefer for number in running}) > 1:
        # The rule written last gives way.
        mode = policy.rules[running[-1]].ties or policy.ties
        return None if mode == "follow" else (running[-1], mode)
    return None


def _parted(tie: tuple[str, ...], rule: Rule, members: list[Unit], *, compared: bool) -> Diagnostic:
    are = "are tied by `config.json` and stored apart, so loading compares them" if compared else "are one tensor"
    where = " or ".join(str(selector) for selector in rule.offload or rule.prefer)
    verb = "keep" if rule.offload else "run"
    names = " and ".join(f"`{name}`" for name in tie[:2]) + (f" and {len(tie) - 2} more" if len(tie) > 2 else "")
    both = ", ".join(f'"{member.path}"' for member in members)
    return Diagnostic(
        "DP401",
        f"{names} {are}, and rule `{rule.name}` would {verb} only a part of them on `{where}`",
        rule.place,
        "parts tied tensors",
        help=f"match all of {both}, or set `ties`:\n"
        f'`ties = "follow"` takes the whole group along, `ties = "skip"` leaves it where it is',
    )


def colocate_blocks(division: Division, context: PlacementContext, assignment: Assignment) -> Assignment:
    """Return the assignment with the pieces of each block together, and what needs it on the main device.

    Raises `Refused` where the consumer could not run them (DP404, DP408).
    """
    units = division.units
    alone = (at for at in sorted(assignment.offloaded) if units[at].direct_tensors_only)
    mixed = next((at for at in alone if not _is_whole(at, units, assignment)), None)
    if mixed is not None:
        raise Refused(_mixed_container(units[mixed], assignment.offloaded[mixed]))
    blocks: dict[int, list[int]] = {}
    for at, unit in enumerate(units):
        if unit.block is not None:
            blocks.setdefault(unit.block, []).append(at)
    cut: list[list[int]] = []
    if blocks:
        together, cut = _pieces(units, blocks.values(), context, assignment)
        clusters = connected_components([*assignment.clusters, *together])
        assignment = replace(assignment, clusters=tuple(map(tuple, clusters)))
    several = len(context.devices) > 1
    for group in meetings(context.tree, division) if several else ():
        assignment = _meet(group, assignment)
    if several and context.target.abilities.unit == "layer":
        assignment = _run_ends_with_layers(units, assignment)
    if cut:
        assignment = _run_cut_on_main(units, cut, assignment)
    if several and holds_own_tensors(units):
        assignment = _run_own_on_main(context, assignment)
    return assignment


def _run_ends_with_layers(units: Sequence[Unit], assignment: Assignment) -> Assignment:
    """Return the assignment with what is before the first layer on its device, and what is behind the last on its.

    That is where a target of whole layers runs them, unless rules say more.
    """
    layers = [at for at, unit in enumerate(units) if unit.is_block or unit.block is not None]
    for ends in (range(layers[0] + 1), range(layers[-1], len(units))) if layers else ():
        assignment = _meet(Meeting(tuple(ends), follows=False), assignment)
    return assignment


def _parted_by_rules(group: Sequence[int], assignment: Assignment) -> bool:
    """Whether rules run the units of a group on several devices: they know better, or a dry run will tell."""
    ruled = {assignment.pinned[at][0] for at in group if at in assignment.pinned}
    away = any(at in assignment.offloaded for at in group)
    return len(ruled) > 1 or any(at in assignment.choices for at in group) or (away and assignment.main is not None)


def _meet(meeting: Meeting, assignment: Assignment) -> Assignment:
    """Return the assignment with the units of a group on one device, as far as rules leave them to the planner.

    A unit that a rule runs somewhere may take the others along. What is offloaded runs on the main device, so the
    others do.
    """
    group = meeting.units
    ruled = any(at in assignment.pinned for at in group)
    if _parted_by_rules(group, assignment) or (ruled and not meeting.follows):
        return assignment
    pinned = next((assignment.pinned[at] for at in group if at in assignment.pinned), None)
    if any(at in assignment.offloaded for at in group):
        main = assignment.main if pinned is None else pinned[0]
        free = {at for cluster in assignment.clusters for at in cluster} & set(group)
        return _run_on_main(free, _MEET, replace(assignment, main=main)) if free else assignment
    mine = [cluster for cluster in assignment.clusters if not set(group).isdisjoint(cluster)]
    rest = tuple(cluster for cluster in assignment.clusters if cluster not in mine)
    if pinned is not None:
        along = {at: pinned for cluster in mine for at in cluster}
        return replace(assignment, clusters=rest, pinned={**assignment.pinned, **along})
    if len(mine) < 2:
        return assignment
    joined = tuple(sorted(at for cluster in mine for at in cluster))
    return replace(assignment, clusters=tuple(sorted((*rest, joined))))


def holds_own_tensors(units: Sequence[Unit]) -> bool:
    """Whether the first unit is what the model itself holds, beside its children."""
    return bool(units) and units[0].direct_tensors_only and not units[0].path


def _pieces(
    units: Sequence[Unit], blocks: Iterable[list[int]], context: PlacementContext, assignment: Assignment
) -> tuple[list[list[int]], list[list[int]]]:
    """Return of the divided blocks the pieces that the search places as one, and the blocks of which parts are away."""
    free = {at for cluster in assignment.clusters for at in cluster if at not in assignment.choices}
    together: list[list[int]] = []
    cut: list[list[int]] = []
    for pieces in blocks:
        running = [at for at in pieces if at not in assignment.offloaded]
        if context.target.abilities.unit == "tensor":
            # It moves what parts of a block hand on, so that rules may part them; the rest stays together.
            together += [loose] if (loose := [at for at in running if at in free]) else []
            continue
        devices = {assignment.pinned[at][0] for at in running if at in assignment.pinned}
        choices = {assignment.choices[at][1] for at in running if at in assignment.choices}
        loose = [at for at in running if at in free]
        if len(devices) + len(choices) > 1 or ((devices or choices) and loose and len(context.devices) > 1):
            raise Refused(_apart(units, pieces, assignment))
        places = {assignment.offloaded[at].place for at in pieces if at in assignment.offloaded}
        if len(places) + bool(running) > 1:
            cut.append(pieces)
        elif loose or choices:
            together.append([at for at in running if at not in assignment.pinned])
    return together, cut


def _run_cut_on_main(units: Sequence[Unit], cut: list[list[int]], assignment: Assignment) -> Assignment:
    """Run the cut blocks and all that they may read on the main device.

    What is offloaded runs on the main device. accelerate moves a module's inputs where it has a hook, and a
    cut block has none as a whole: its residual connection adds what comes from the block before to what its
    pieces return, and its attention turns queries by rotary tables that are made once for all blocks. So everything
    up to the last cut block runs there, and what is registered beside the blocks too, such as those tables.
    """
    last = max(pieces[-1] for pieces in cut)
    stack_end = max(units[pieces[0]].stack_end for pieces in cut)
    wanted = set()
    main = assignment.main
    for at, unit in enumerate(units):
        if at > last and (unit.is_block or unit.block is not None or unit.start >= stack_end):
            continue
        wanted.add(at)
        device = assignment.pinned[at][0] if at in assignment.pinned else main
        if at in assignment.choices or main not in (None, device):
            raise Refused(_apart(units, [at], assignment))
        main = device
    return _run_on_main(wanted, _CUT, replace(assignment, main=main))


def _run_own_on_main(context: PlacementContext, assignment: Assignment) -> Assignment:
    """Run what the model itself holds on the main device.

    accelerate gives the root a hook for the main device, which moves the root's own tensors there, whatever their keys
    say. They come first, so without pins they are on the lowest device anyway.
    """
    lowest = min((device for device, _ in assignment.pinned.values()), default=None)
    if lowest is None:
        return assignment
    if 0 not in assignment.pinned:
        return _run_on_main({0}, _OWN, assignment)
    device, rule = assignment.pinned[0]
    if device != lowest or assignment.main not in (None, device):
        main = context.devices[lowest if assignment.main is None else assignment.main]
        raise Refused(
            Diagnostic(
                "DP408",
                f"rule `{rule.name}` runs what the model itself holds on `{context.devices[device]}`, "
                f"and the consumer would move it to the main device, `{main}`",
                rule.place,
                help="match the model's children (`*`), and leave the model itself out",
            )
        )
    return replace(assignment, main=device)


def _run_on_main(wanted: set[int], why: str, assignment: Assignment) -> Assignment:
    """Take the clusters that hold any of `wanted` out of the search: they run on the main device."""
    main_clusters = [cluster for cluster in assignment.clusters if not wanted.isdisjoint(cluster)]
    return replace(
        assignment,
        clusters=tuple(cluster for cluster in assignment.clusters if wanted.isdisjoint(cluster)),
        runs_on_main={**assignment.runs_on_main, **{at: why for cluster in main_clusters for at in cluster}},
        main_clusters=(*assignment.main_clusters, *main_clusters),
    )


def run_own_tensors_on_main(assignment: Assignment) -> Assignment:
    """Return an assignment by which what the model itself holds runs on the main device, whatever the search does."""
    return _run_on_main({0}, _OWN, assignment)


def allowed_devices(cluster: Cluster, assignment: Assignment) -> tuple[int, ...] | None:
    """Return the devices that rules leave to a cluster, the preferred one first; `None` where any will do."""
    found = next((assignment.choices[at][1] for at in cluster if at in assignment.choices), None)
    if found is None:
        return None
    others = [set(assignment.choices[at][1]) for at in cluster if at in assignment.choices]
    return tuple(number for number in found if all(number in other for other in others))


def _apart(units: Sequence[Unit], pieces: list[int], assignment: Assignment) -> Diagnostic:
    ruled = {**assignment.choices, **{at: (rule, ()) for at, (_, rule) in assignment.pinned.items()}}
    at = next(at for at in pieces if at in ruled)
    rule = ruled[at][0]
    whole = units[pieces[0]].path
    block = units[at].path.rpartition(".")[0] or whole
    return Diagnostic(
        "DP404",
        f"rule `{rule.name}` runs `{units[at].path}` apart from the rest of its block",
        rule.place,
        "a block runs on one device",
        help=f"match the whole block (`{block}`), or keep the part elsewhere with `offload`",
    )


def _is_whole(at: int, units: Sequence[Unit], assignment: Assignment) -> bool:
    """Return whether all children of a module are stored where its own tensors are: it is one entry of a map then."""
    prefix = f"{units[at].path}." if units[at].path else ""
    inside = [one for one in range(at + 1, len(units)) if units[one].path.startswith(prefix)]
    places = {assignment.offloaded[one].place if one in assignment.offloaded else None for one in (at, *inside)}
    return bool(prefix) and len(places) == 1


def _mixed_container(unit: Unit, offload: Offload) -> Diagnostic:
    path = unit.path or "the model itself"
    return Diagnostic(
        "DP408",
        f"rule `{offload.rule}` stores the own tensors of `{path}` on `{offload.place}` and leaves its children",
        help=f"keep all of `{path}` there, or only its children",
    )
