"""From a policy, a host and a model tree to a plan.

Owns the order of the stages, each of which returns a new value: divide, then for each entry of `prefer` apply the
rules, colocate, search, sum up the ledger; the first entry that fits becomes the plan, with its device map. A pure
function of its arguments: it reads no environment, no clock, no file and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import NamedTuple

from devpolicy._core.abilities import DEFAULT_TARGET, Target, default_target, target_of
from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.fields import TensorSplit
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy, Workload
from devpolicy._core.memory.budgets import pool_reserved
from devpolicy._core.memory.sizing import Sizing, size_model, size_tokens
from devpolicy._core.model.form import Held
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement import exact
from devpolicy._core.placement.apply_rules import Offload, Refused, apply_rules
from devpolicy._core.placement.assemble import PlacedModel, plan_of
from devpolicy._core.placement.cache_on_cpu import (
    beside_cache,
    cache_bytes,
    check_cache,
    with_cache,
    without_cache,
)
from devpolicy._core.placement.colocate import colocate_blocks, colocate_ties
from devpolicy._core.placement.computing import experts_leave_first, unfit
from devpolicy._core.placement.context import (
    PlacementContext,
    Selection,
    context_for,
    select_devices,
    with_one_fraction,
)
from devpolicy._core.placement.divide import Division, divide, with_caches
from devpolicy._core.placement.findings import findings_of_division, findings_of_model, idle_offloads
from devpolicy._core.placement.groups import Groups, check_divides, groups_of, on_groups, share_of, with_members
from devpolicy._core.placement.joint import one_piece
from devpolicy._core.placement.kept_by_engine import least_kept, may_keep, with_kept, without_kept
from devpolicy._core.placement.leaving import Notes, choices_of, leaving_first, may_fit
from devpolicy._core.placement.ledger import (
    Budget,
    check_ledger,
    ledger_of,
    room_for_loading,
    several_accelerators,
    with_more_layers,
)
from devpolicy._core.placement.lint import findings_of_rules
from devpolicy._core.placement.loading import check_loading, findings_of_float32, refused_on, stays_error
from devpolicy._core.placement.matrices import Departure, back_in_parts, leaving_in_parts
from devpolicy._core.placement.overflow import spill
from devpolicy._core.placement.plan import Plan, Trace
from devpolicy._core.placement.quantized import findings_of_form, held_on, running, without_ties, wrongly_left
from devpolicy._core.placement.refusals import no_room, not_known, not_read, nothing_fits
from devpolicy._core.placement.refuted import kept_whole, no_room_for_it, refuted
from devpolicy._core.placement.scatter import scatter
from devpolicy._core.placement.search import Attempt, Problem, Solution, place
from devpolicy._core.placement.streaming import parted, stream_model
from devpolicy._core.placement.suggestions import suggestions


def make_plan(
    policy: ResolvedPolicy,
    tree: ModelTree | None,
    host: Host,
    *,
    target: str | None = None,
    reserved: Mapping[str, int] | None = None,
    advise: bool = True,
) -> Plan:
    """Place `tree` on `host` under what `policy` says of a component, for a consumer.

    Without a tree, the component is the bytes that the policy says it `needs`. `target` is by default the policy's,
    else `"hf"`. `reserved` are bytes by device that components planned before take.

    Raises `Unsatisfiable` where the host has not what the policy requires, no entry of `prefer` fits (DP3xx) or the
    consumer could not take it (DP4xx), and `PolicyError` where a rule names a tensor (DP203), or a rule of the
    component's own matches nothing (DP501). With `advise` a refusal for want of room lists what smallest change would
    do, found by planning again.
    """
    if tree is None:
        policy, tree = one_piece(policy)
    make = partial(place_model, target=target, reserved=reserved)
    try:
        return plan_of(make(policy, tree, host))
    except Unsatisfiable as refused:
        if not advise or refused.code not in ("DP301", "DP302", "DP303"):
            raise
        first, *rest = refused.diagnostics
    help_ = suggestions(policy, tree, host, make, consumer_of(policy, tree, target))
    raise Unsatisfiable([replace(first, help=help_ or first.help), *rest])


def consumer_of(policy: ResolvedPolicy, tree: ModelTree | None, target: str | None = None) -> Target:
    """Return the consumer that a model is planned for: the one that is named, the policy's, or the format's."""
    return target_of(target or policy.target or (default_target(tree.format) if tree else DEFAULT_TARGET))


def place_model(
    policy: ResolvedPolicy,
    tree: ModelTree,
    host: Host,
    *,
    target: str | None = None,
    reserved: Mapping[str, int] | None = None,
) -> PlacedModel:
    """Return how a model is placed, as `make_plan` does it and with the same arguments, stage by stage."""
    consumer = consumer_of(policy, tree, target)
    policy = policy.for_host(host)
    if policy.overflow:
        policy = experts_leave_first(policy, tree, consumer)
    policy = kept_whole(policy, tree, consumer) if "divided" in dict(tree.metadata) else policy
    required = [one for one in (policy.require, *policy.required) if one is not None]
    if required:
        check_requirements(required, host)
    if tree.format not in consumer.abilities.reads:
        raise Unsatisfiable(not_read(tree, consumer))
    if tree.incomplete_reason and consumer.abilities.maps:
        raise Unsatisfiable(not_known(tree))
    of_loading = check_loading(policy, tree, consumer)
    if policy.rules:
        _divided(policy, tree)  # what is wrong with the policy comes before what is wrong with the host
    reserved = pool_reserved(reserved, host) if reserved else {}
    refusals: list[tuple[DeviceSelector, Diagnostic]] = []
    for selector in policy.prefer:
        try:
            fitting = _fitting_on(selector, policy, tree, host, consumer, reserved)
        except Refused as refused:
            refusals.append((selector, no_room_for_it(refused.finding, tree, consumer)))
            continue
        division, context, solution = fitting.division, fitting.context, fitting.solution
        terms = [*((str(one), finding.message) for one, finding in refusals), (str(selector), "fits")]
        idle, of_idle = idle_offloads(division.units, solution, context)
        trace = Trace(tuple(terms), (*fitting.notes, *idle))
        warnings = (
            *policy.notices,
            *findings_of_model(tree, policy, context.kind),
            *findings_of_division(division, solution, context),
            *(findings_of_form(context.held, tree, policy) if context.held.dequantized or context.held.left else ()),
            *(findings_of_float32(policy, division.units, solution.offloaded) if any(context.sizing.float32) else ()),
            *of_loading,
            *fitting.of_rules,
            *of_idle,
        )
        found = division, context, fitting.attempt, solution, fitting.ledger
        shared = {leader: tuple(one.device for one in ones) for leader, ones in fitting.groups.items()}
        return PlacedModel(selector, *found, trace, warnings, fitting.streaming, shared, fitting.kept)
    raise Unsatisfiable(nothing_fits(policy, tree, refusals))


def _fitting_on(
    selector: DeviceSelector,
    policy: ResolvedPolicy,
    tree: ModelTree,
    host: Host,
    consumer: Target,
    reserved: Mapping[str, int],
) -> _Fitting:
    """Return how a model fits on the devices of an entry of `prefer`. Raises `Refused`, for the last way tried."""
    selection, abilities = _selected(selector, policy, host, consumer), consumer.abilities
    held = Held(tree)
    split = policy.split if isinstance(policy.split, TensorSplit) else None
    if tree.quantization is not None or policy.loading.quantization:
        parts = 1 if split is None or selector.type == "cpu" else split.tensor or len(selection.devices)
        held = held_on(selector.type, policy, tree, host, consumer, parts)
    elif policy.loading.attention or abilities.cache == "engine":
        held = Held(running(policy, tree, consumer))
    # Whether several devices cost the consumer more than one does.
    several = abilities.shares_ties != "always" or abilities.budget != "per-device"
    if split is not None:
        check_divides(consumer)
        policy = replace(policy, split="when-needed" if split.tensor else "never")
    ways = [*_ways(held, policy, consumer, selector)] if several else [(held, policy, False)]
    while True:
        form, asked, one_fraction = ways.pop(0)
        sizing, division, of_rules = _divided(policy, form.tree)
        context = context_for(selector, selection, asked, host, consumer, form, sizing)
        context = context.with_reserved(reserved) if reserved else context
        shape = _Shape(division, context, {}, 0)
        if split is not None or one_fraction or policy.workload.kv_offload:
            shape = _shape(division, context, split, one_fraction)
        try:
            found = (_fitting_at_once if sizing.activations.copies else _fitting)(*shape[:2], tree, of_rules)
            return shape.ledgered(found) if shape.groups or shape.cache else found
        except Refused:
            if form.instead is not None:
                ways.append((form.instead, asked, one_fraction))
            other = None if ways else _as_a_whole(shape, tree, of_rules)
            if other is not None:
                return other
            if not ways:
                raise


class _Shape(NamedTuple):
    """What is searched in place of a model and its devices, and what that means for the ledger."""

    division: Division
    context: PlacementContext
    groups: Groups
    cache: int
    """Bytes of the KV cache that is on the CPU as a whole."""

    def ledgered(self, found: _Fitting) -> _Fitting:
        """Return what was found with every member of a group, and with the cache."""
        if self.cache:
            return found._replace(ledger=with_cache(found.ledger, self.cache, self.context))
        ledger = with_members(found.ledger, self.groups) if self.groups else found.ledger
        return found._replace(ledger=ledger, groups=self.groups)


def _shape(division: Division, context: PlacementContext, split: TensorSplit | None, one_fraction: bool) -> _Shape:
    groups: Groups = {}
    if split is not None and context.kind != "cpu":
        groups = groups_of(context, split)
        context = on_groups(context, groups)
        division = share_of(division, context.tree, len(next(iter(groups.values()))))
    context = with_one_fraction(context) if one_fraction else context
    cache = cache_bytes(division) if context.policy.workload.kv_offload and context.link else 0
    if cache:
        division, context = without_cache(division), beside_cache(context, cache)
    return _Shape(division, context, groups, cache)


def _fitting_at_once(
    division: Division, context: PlacementContext, tree: ModelTree, of_rules: list[Diagnostic]
) -> _Fitting:
    """Return what the search finds, with room for copies where several accelerators work at once. Raises `Refused`.

    Where there is no room for them, the target can do without: that is better than a part on the CPU, or no plan.
    """
    alone = _fitting(division, replace(context, pipelined=False), tree, of_rules)
    if not several_accelerators(alone.division.units, alone.solution, context):
        return alone
    try:
        found = _fitting(division, context, tree, of_rules)
    except Refused:
        return alone
    return found if several_accelerators(found.division.units, found.solution, context) else alone


def _as_a_whole(shape: _Shape, tree: ModelTree, of_rules: list[Diagnostic]) -> _Fitting | None:
    """Return how a model fits that does not by itself: streamed by the target, or with bytes that its engine keeps."""
    streamed = stream_model(shape.division, shape.context)
    if streamed is not None:
        solution = streamed.attempt.solution()
        told = streamed.division, shape.context, streamed.attempt, solution, streamed.ledger, ()
        return _Fitting(*told, of_rules, streaming=streamed.mode)
    return _kept(shape, tree, of_rules) if may_keep(shape.context) else None


_Way = tuple[Held, ResolvedPolicy, bool]
"""The model as it is held, the policy that is asked, and whether all devices give one fraction of their memory."""


def _ways(form: Held, policy: ResolvedPolicy, consumer: Target, selector: DeviceSelector) -> Iterator[_Way]:
    """Yield what is tried in turn: where several devices cost more than one, one comes first."""
    abilities = consumer.abilities
    # Where there is the CPU alone, there is one memory.
    parted = bool(form.tree.ties) and abilities.shares_ties != "always" and selector.type != "cpu"
    one_fraction = abilities.budget != "per-device" and selector.type != "cpu"
    alone = one_fraction or (parted and abilities.shares_ties == "alone")
    if alone and policy.split in ("when-needed", "never"):
        yield form, replace(policy, split="never"), False
    yield without_ties(form) if parted else form, policy, one_fraction


class _Fitting(NamedTuple):
    division: Division
    context: PlacementContext
    attempt: Attempt
    solution: Solution
    ledger: Mapping[str, Budget]
    notes: Notes
    of_rules: list[Diagnostic]
    streaming: str | None = None
    groups: Groups = {}  # noqa: RUF012 - never changed
    kept: int = 0


def _kept(shape: _Shape, tree: ModelTree, of_rules: list[Diagnostic]) -> _Fitting | None:
    """Return how a model fits where the engine keeps as little as does on the CPU, `None` where it does not."""
    members = {str(leader): len(ones) for leader, ones in shape.groups.items()}

    def attempt(kept: int) -> _Fitting | None:
        try:
            found = _fitting(shape.division, with_kept(shape.context, kept), tree, of_rules)
        except Refused:
            return None
        ledger = without_kept(found.ledger, kept, shape.context, members)
        return shape.ledgered(found._replace(ledger=ledger, kept=kept)) if ledger["cpu"].free >= 0 else None

    least = least_kept(shape.context, lambda kept: attempt(kept) is not None)
    return None if least is None else attempt(least)


def _fitting(division: Division, context: PlacementContext, tree: ModelTree, of_rules: list[Diagnostic]) -> _Fitting:
    """Return what the search finds in a context, where loading has room as well. Raises `Refused`.

    `tree` is the model as it was read, with the ties that the consumer may not hold; `of_rules` is what is to be said
    of the rules that divide it.
    """
    consumer, rooms = context.target, dict[str, int]()
    cut = parted(division.units, context) if consumer.abilities.unit == "part" else None
    if cut is not None:
        raise Refused(cut)
    leaving, whole = any(rule.overflow for rule in context.policy.rules), division
    for tried in count():
        found = _leaving(whole, context) if leaving else (whole, *_search(whole, context, spilling=True))
        division, attempt, notes = found
        solution = attempt.solution()
        counts_layers = consumer.abilities.assigns in ("runs", "counts", "budgets")
        wrong = unfit(division.units, solution, context, tied=bool(tree.ties)) if counts_layers else None
        if wrong is not None:
            raise Refused(wrong)
        several = len(set(solution.device)) > 1
        if several and not consumer.abilities.maps:
            message = f"several devices are needed, and `{consumer.name}` takes one"
            raise Refused(Diagnostic("DP409", message))
        if several and not context.held.several:
            raise Refused(Diagnostic("DP417", f"it cannot be divided: {context.held.because}"))
        divided = refuted(tree, consumer, solution) if "divided" in dict(tree.metadata) else None
        if divided is not None:
            raise Refused(divided)
        stay = tree.loading.replaced or tree.loading.made_anew
        unlike = stays_error(tree, division.units, solution.offloaded) if stay else None
        if unlike is not None:
            raise Refused(unlike)
        away = context.held.skips_elsewhere and solution.offloaded
        misnamed = wrongly_left(context.held, division.units, solution, context) if away else None
        if misnamed is not None:
            raise Refused(misnamed)
        ledger = ledger_of(division.units, solution, context)
        needed = room_for_loading(ledger, division.units, tried)
        more = {device: size for device, size in needed.items() if size > rooms.get(device, 0)}
        if not more:
            check_ledger(ledger, context)
            return _Fitting(division, context, attempt, solution, ledger, notes, of_rules)
        rooms |= more
        context = context.with_room_for_loading(rooms)
    raise AssertionError("rooms grow, and no room is larger than a tensor")


_Divided = tuple[Sizing, Division, list[Diagnostic]]
"""What of a plan does not depend on the host but through the policy: one model under its rules and workload."""


def _divided(policy: ResolvedPolicy, tree: ModelTree) -> _Divided:
    """Return a model's sizes, its units and what is to be said of the rules. Raises `PolicyError` for their errors."""
    # Findings point to the rules' places and speak of their component; equal rules may be written in several.
    written = tuple((rule.place, rule.layer) for rule in policy.rules)
    what = "divided", policy.rules, written, policy.component, policy.workload.dtype, policy.ties
    first, divided = tree.remembered(what, partial(_divide, policy, tree))
    if first == policy.workload:
        return divided
    return tree.remembered((*what, policy.workload), lambda: _with_tokens(divided, tree, policy.workload))


def _divide(policy: ResolvedPolicy, tree: ModelTree) -> tuple[Workload, _Divided]:
    sizing = size_model(tree, policy.workload)
    division = divide(tree, policy.rules, sizing)
    findings = findings_of_rules(policy, tree, division)
    wrong = [finding for finding in findings if finding.severity == "error"]
    if wrong:
        raise PolicyError(wrong)
    division = colocate_ties(division, tree, policy) if tree.ties or tree.loading.compared else division
    return policy.workload, (sizing, division, findings)


def _with_tokens(divided: _Divided, tree: ModelTree, workload: Workload) -> _Divided:
    """Return a model that was divided under another workload of the same dtype, which its weights do not depend on."""
    sizing, division, findings = divided
    sizing = size_tokens(sizing, tree, workload)
    return sizing, with_caches(division, sizing.kv_cache), findings


def _selected(selector: DeviceSelector, policy: ResolvedPolicy, host: Host, consumer: Target) -> Selection:
    """Return the devices of an entry of `prefer`. Raises `Refused` where there are none for the consumer."""
    if policy.workload.kv_offload is not None:
        check_cache(consumer)
    if selector.type not in consumer.abilities.types:
        raise Refused(Diagnostic("DP409", f"`{consumer.name}` cannot run on `{selector.type}`"))
    attention = policy.loading.attention
    unable = refused_on(attention, selector.type) if attention else None
    if unable is not None:
        raise Refused(Diagnostic("DP416", unable))
    selection = select_devices(selector, policy, host)
    if not selection.devices:
        raise Refused(Diagnostic("DP301", selection.reason))
    return selection


def _faster(problem: Problem, attempt: Attempt) -> Attempt:
    """Return a faster attempt where a small problem has one, with several runs on a device."""
    if problem.context.target.abilities.runs_per_device == 1:
        return attempt
    found = exact.search(problem, {}, attempt.time)
    return attempt if found is None else exact.attempt_at(problem, found)


def _leaving(division: Division, context: PlacementContext) -> Departure:
    """Return an attempt under rules that let modules `overflow`: as few of them leave as let the rest fit.

    What leaves in parts is divided further.
    """
    try:
        return Departure(division, *_search(division, context))
    except Refused:
        order, notes = leaving_first(apply_rules(division, context), division.units, context)
    parts = context.cpu_number is not None
    parted = leaving_in_parts(division, order, context, partial(_search, again=False), _search) if parts else None
    if parted is not None:
        return parted._replace(notes=(*notes, *parted.notes))
    leaving: dict[int, Offload] = {}
    for chosen in choices_of(order, context):
        leaving = {at: offload for offloads in chosen for at, offload in offloads.items()}
        if may_fit(division.units, leaving, context):
            try:
                attempt, told = _search(division, context, leaving)
            except Refused:
                continue
            return Departure(division, attempt, (*notes, *told))
    spilling = partial(_search, spilling=True)
    back = back_in_parts(division, order, context, spilling) if parts else None
    found = back or Departure(division, *spilling(division, context, leaving))
    return found._replace(notes=(*notes, *found.notes))


_Found = tuple[Attempt, Notes]


def _search(
    division: Division,
    context: PlacementContext,
    leaving: Mapping[int, Offload] | None = None,
    *,
    spilling: bool = False,
    again: bool = True,
) -> _Found:
    """Return an attempt with the units in `leaving` offloaded, with notes for people. Raises `Refused`.

    First with each rule's first device that has room and devices in the order of their ids, then in any order, then
    with the rules' choices left to the search; with `spilling`, what still does not fit is offloaded as far as
    `overflow` allows, in the way of the two that takes less. Where devices need more for several layers, it is known
    only then which ones have several: one without room for it is taken to have some, and all is searched `again`.
    """
    refused: Refused | None = None
    problems: list[Problem] = []
    found: _Found | None = None
    ruled = any(rule.prefer for rule in context.policy.rules)
    fastest = context.policy.split == "fastest"
    for choose in (False, True) if ruled else (False,):
        try:
            assignment = colocate_blocks(
                division, context, apply_rules(division, context, choose=choose, leaving=leaving)
            )
        except Refused as failure:
            refused = refused or failure
            continue
        if choose and not assignment.choices:
            break
        problem = Problem(division.units, assignment, context)
        attempt = (None if choose else place(problem)) or scatter(problem)
        if attempt is not None:
            found = (_faster(problem, attempt) if fastest else attempt), assignment.notes
            break
        problems.append(problem)
    if found is None and spilling:
        spilled = [found for problem in problems if (found := _spilled(problem)) is not None]
        found = min(spilled, key=_offload_cost, default=None)
    if found is None:
        raise refused or no_room(problems[0])
    if not again or not context.sizing.activations.parted:
        return found
    more = with_more_layers(ledger_of(division.units, found[0].solution(), context), context)
    return found if more is None else _search(division, more, leaving, spilling=spilling)


def _offload_cost(found: _Found) -> int:
    """Return what is to be least where something is offloaded: the time, or the bytes that are transferred for it."""
    problem, costs = found[0].problem, found[0].problem.context.costs
    if problem.context.policy.split == "fastest":
        return found[0].time
    return sum(costs.transferred_bytes(problem.units[at]) for at in problem.assignment.offloaded)


def _spilled(problem: Problem) -> _Found | None:
    spilled = spill(problem)
    if spilled is None:
        return None
    attempt = spilled.attempt
    if problem.context.policy.split == "fastest" and attempt.problem is problem:  # nothing had to go after all
        attempt = _faster(problem, attempt)
    return attempt, (*problem.assignment.notes, *spilled.notes)
