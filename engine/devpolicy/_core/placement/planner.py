"""From a policy, a host and a model tree to a plan.

Owns the order of the stages, each of which returns a new value: divide, then for each entry of `prefer` apply the
rules, colocate, search, sum up the ledger; the first entry that fits becomes the plan, with its device map. A pure
function of its arguments: it reads no environment, no clock, no file and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

from devpolicy._core.abilities import DEFAULT_TARGET, Target, default_target, target_of, targets
from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.memory.budgets import pool_reserved
from devpolicy._core.memory.sizing import Sizing, size_model
from devpolicy._core.model.quantize import Held
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement import exact
from devpolicy._core.placement.apply_rules import Offload, Refused, apply_rules
from devpolicy._core.placement.assemble import assemble
from devpolicy._core.placement.colocate import colocate_blocks, colocate_ties, holds_own_tensors
from devpolicy._core.placement.computing import experts_leave_first, unfit
from devpolicy._core.placement.context import (
    PlacementContext,
    Selection,
    context_for,
    select_devices,
    with_one_fraction,
)
from devpolicy._core.placement.divide import Division, divide
from devpolicy._core.placement.dividing import findings_of_division, idle_offloads
from devpolicy._core.placement.joint import one_piece
from devpolicy._core.placement.leaving import leaving_first, may_fit
from devpolicy._core.placement.ledger import Budget, check_ledger, ledger_of, room_for_loading
from devpolicy._core.placement.lint import findings_of_rules
from devpolicy._core.placement.loading import adapter_error, attention_of, check_loading, refused_on
from devpolicy._core.placement.overflow import spill
from devpolicy._core.placement.plan import Plan, Trace
from devpolicy._core.placement.quantized import findings_of_form, held_on, without_ties
from devpolicy._core.placement.refusals import no_room, nothing_fits
from devpolicy._core.placement.refuted import findings_of_class, kept_whole, no_room_for_it, refuted
from devpolicy._core.placement.scatter import scatter
from devpolicy._core.placement.search import Attempt, Problem, Solution, place
from devpolicy._core.placement.suggestions import suggestions
from devpolicy._core.sizes import format_size


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """How a model was placed: every stage's value."""

    selector: DeviceSelector
    """The entry of `prefer` that fits."""
    division: Division
    context: PlacementContext
    attempt: Attempt
    solution: Solution
    ledger: Mapping[str, Budget]
    trace: Trace
    warnings: tuple[Diagnostic, ...]


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
    policy, tree, consumer = _asked(policy, tree, target)

    def make(policy: ResolvedPolicy, host: Host) -> PlacedModel:
        return _place(policy, tree, host, consumer, reserved or {})

    try:
        return plan_of(make(policy, host))
    except Unsatisfiable as refused:
        if not advise or refused.code not in ("DP301", "DP302", "DP303"):
            raise
        first, *rest = refused.diagnostics
    raise Unsatisfiable([replace(first, help=suggestions(policy, tree, host, make) or first.help), *rest])


def _not_read(tree: ModelTree, consumer: Target) -> Diagnostic:
    """Return the finding of a model in a format that a consumer does not load as it is stored."""
    stored = format_size(tree.bytes_as())
    if consumer.name in ("hf", "haystack"):
        sizes = " or ".join(f"{format_size(tree.parameters * size)} in {size * 8} bits" for size in (2, 4))
        message = f"`{consumer.name}` dequantises GGUF files: the {stored} of `{tree.name}` become {sizes}"
        hint = "plan it for an engine of GGUF files, `--target llama.cpp`, or plan the checkpoint that it was made from"
    else:
        message = f"`{consumer.name}` does not read {tree.format.upper()} files, such as that of `{tree.name}`"
        readers = [f"`{name}`" for name, one in targets().items() if tree.format in one.abilities.reads]
        hint = f"plan it for one that does: {' or '.join(readers)}"
    return Diagnostic("DP412", message, help=hint)


def plan_of(placed: PlacedModel) -> Plan:
    """Return the plan of a model that was placed."""
    found = placed.selector, placed.division, placed.context, placed.solution, placed.ledger
    return assemble(*found, placed.context.policy.component, placed.warnings, placed.trace)


def place_model(
    policy: ResolvedPolicy,
    tree: ModelTree | None,
    host: Host,
    *,
    target: str | None = None,
    reserved: Mapping[str, int] | None = None,
) -> PlacedModel:
    """Return how a model is placed, as `make_plan` does it and with the same arguments, stage by stage."""
    policy, tree, consumer = _asked(policy, tree, target)
    return _place(policy, tree, host, consumer, reserved or {})


def _asked(
    policy: ResolvedPolicy, tree: ModelTree | None, target: str | None
) -> tuple[ResolvedPolicy, ModelTree, Target]:
    """Return what is placed, a component of bytes alone as one tensor, and the consumer."""
    consumer = target_of(target or policy.target or (default_target(tree.format) if tree else DEFAULT_TARGET))
    return (*one_piece(policy), consumer) if tree is None else (policy, tree, consumer)


def _place(
    policy: ResolvedPolicy,
    tree: ModelTree,
    host: Host,
    consumer: Target,
    reserved: Mapping[str, int],
) -> PlacedModel:
    policy = policy.for_host(host)
    if policy.overflow:
        policy = experts_leave_first(policy, tree, consumer)
    policy = kept_whole(policy, tree, consumer)
    required = [one for one in (policy.require, *policy.required) if one is not None]
    if required:
        check_requirements(required, host)
    if tree.format not in consumer.abilities.reads:
        raise Unsatisfiable(_not_read(tree, consumer))
    findings_of_loading = check_loading(policy, tree, consumer)
    if tree.incomplete_reason and consumer.abilities.maps:
        message = f"the structure of `{tree.name}` is not known in full"
        hint = 'plan for one device, which needs no map: `target = "torch"`, or `--to torch`'
        if tree.quantization is not None:
            hint = "install the libraries that know its family: `pip install 'devpolicy[hf]'`"
        raise Unsatisfiable(Diagnostic("DP407", message, notes=(tree.incomplete_reason,), help=hint))
    _divided(policy, tree)  # what is wrong with the policy comes before what is wrong with the host
    reserved = pool_reserved(reserved, host) if reserved else {}
    refusals: list[tuple[DeviceSelector, Diagnostic]] = []
    # Whether several devices cost the consumer more than one does.
    parts = consumer.abilities.shares_ties != "always" or consumer.abilities.budget != "per-device"
    for selector in policy.prefer:
        try:
            selection = _selected(selector, policy, host, consumer)
            whole = held_on(selector.type, policy, tree, host, consumer)
        except Refused as refused:
            refusals.append((selector, refused.finding))
            continue
        ways = [*_ways(whole, policy, consumer, selector)] if parts else [(whole, policy, False)]
        while ways:
            form, asked, one_fraction = ways.pop(0)
            sizing, division, findings = _divided(policy, form.tree)
            context = context_for(selector, selection, asked, host, consumer, form, sizing, reserved)
            try:
                placed = _fitting(division, with_one_fraction(context) if one_fraction else context, tree)
            except Refused as refused:
                if form.instead is not None:
                    ways.append((form.instead, asked, one_fraction))
                if not ways:
                    refusals.append((selector, no_room_for_it(refused.finding, tree, consumer)))
                continue
            outcomes = [*((str(one), finding.message) for one, finding in refusals), (str(selector), "fits")]
            idle = idle_offloads(division.units, placed.solution, placed.context)
            trace = Trace(tuple(outcomes), (*placed.notes, *idle))
            of_form = findings_of_form(form, tree, policy)
            of_class = [*findings_of_class(tree, placed.solution)]
            of_class = of_class or _findings_of_division(form.tree, division, placed.solution)
            of_model = (*_findings_of_model(tree, policy), *of_class, *of_form, *findings_of_loading)
            unproved = findings_of_division(tree, division, placed.solution, placed.context)
            told = (*policy.notices, *of_model, *findings, *unproved)
            found = placed.context, placed.attempt, placed.solution, placed.ledger
            return PlacedModel(selector, division, *found, trace, told)
    raise Unsatisfiable(nothing_fits(policy, tree, refusals))


_Way = tuple[Held, ResolvedPolicy, bool]
"""The model as it is held, the policy that is asked, and whether all devices give one fraction of their memory."""


def _ways(form: Held, policy: ResolvedPolicy, consumer: Target, selector: DeviceSelector) -> Iterator[_Way]:
    """Yield what is tried in turn: where several devices cost more than one, one comes first."""
    abilities = consumer.abilities
    # Where there is the CPU alone, there is one memory.
    parted = bool(form.tree.ties) and abilities.shares_ties != "always" and selector.type != "cpu"
    one_fraction = abilities.budget == "same-fraction-of-total" and selector.type != "cpu"
    alone = one_fraction or (parted and abilities.shares_ties == "alone")
    if alone and policy.split in ("when-needed", "never"):
        yield form, replace(policy, split="never"), False
    yield without_ties(form) if parted else form, policy, one_fraction


def _findings_of_division(tree: ModelTree, division: Division, solution: Solution) -> list[Diagnostic]:
    """Return a warning where a model is divided that does not say what of it must stay whole."""
    divided = len(set(solution.device)) + len({one.place for one in solution.offloaded.values()}) > 1
    declares = bool(tree.no_split) or not (tree.loading.architecture or holds_own_tensors(division.units))
    if declares or not divided:
        return []
    message = f"`{tree.modules[0].class_name}` does not say what stays whole, and is divided"
    help_ = 'run its code by the plan, at no cost: `devpolicy dry-run`\nor use one device: `split = "never"`'
    return [Diagnostic("DP422", message, help=help_, severity="warning")]


class _Fitting(NamedTuple):
    context: PlacementContext
    attempt: Attempt
    solution: Solution
    ledger: Mapping[str, Budget]
    notes: tuple[tuple[str, str], ...]


def _fitting(division: Division, context: PlacementContext, tree: ModelTree) -> _Fitting:
    """Return what the search finds in a context, where loading has room as well. Raises `Refused`.

    `tree` is the model as it was read, with the ties that the consumer may not hold.
    """
    consumer, rooms = context.target, dict[str, int]()
    for tried in count():
        attempt, notes = _search(division, context)
        solution = attempt.solution()
        counts_layers = consumer.abilities.assigns in ("runs", "counts")
        wrong = unfit(division.units, solution, context, tied=bool(tree.ties)) if counts_layers else None
        if wrong is not None:
            raise Refused(wrong)
        several = len(set(solution.device)) > 1
        if several and not consumer.abilities.maps:
            message = f"several devices are needed, and `{consumer.name}` takes one"
            raise Refused(Diagnostic("DP409", message))
        if several and not context.held.several:
            raise Refused(Diagnostic("DP417", f"it cannot be divided: {context.held.because}"))
        parted = refuted(tree, consumer, solution)
        if parted is not None:
            raise Refused(parted)
        unlike = adapter_error(tree, division.units, solution.offloaded) if tree.loading.replaced else None
        if unlike is not None:
            raise Refused(unlike)
        ledger = ledger_of(division.units, solution, context)
        needed = room_for_loading(ledger, division.units, tried)
        more = {device: size for device, size in needed.items() if size > rooms.get(device, 0)}
        if not more:
            check_ledger(ledger, context)
            return _Fitting(context, attempt, solution, ledger, notes)
        rooms |= more
        context = context.with_room_for_loading(rooms)
    raise AssertionError("rooms grow, and no room is larger than a tensor")


def _findings_of_model(tree: ModelTree, policy: ResolvedPolicy) -> list[Diagnostic]:
    """Return what is to be said of a model: that it is not all known, not all stored, or not all counted."""
    unlike = [Diagnostic("DP415", note, severity="warning") for note in tree.loading.notes]
    reserved = any(rule.activations is not None for rule in policy.memory)
    unknown = _unknown_activations(tree)
    if unknown and not reserved:
        help_ = 'measure them, and set them aside: `memory.cuda.reserve.activations = "2 GiB"`'
        unlike.append(Diagnostic("DP414", unknown, help=help_, severity="warning"))
    if tree.incomplete_reason is None:
        return unlike
    message = f"the structure of `{tree.name}` is not known in full"
    return [Diagnostic("DP407", message, notes=(tree.incomplete_reason,), severity="warning"), *unlike]


def _unknown_activations(tree: ModelTree) -> str:
    """Return what is to be said of activations that no formula counts, empty where one does."""
    if "model_type" not in dict(tree.metadata):
        return ""
    if not tree.activation_elements_per_token:
        return f"the activations of `{tree.name}` are not known, and counted as nothing"
    if any(cache.window == 1 and cache.dtype == "float32" for cache in tree.kv_cache):
        return f"the activations of `{tree.name}` are counted as those of attention, and its recurrent layers need more"
    return ""


_Divided = tuple[Sizing, Division, list[Diagnostic]]
"""What of a plan does not depend on the host but through the policy: one model under its rules and workload."""


def _divided(policy: ResolvedPolicy, tree: ModelTree) -> _Divided:
    """Return a model's sizes, its units and what is to be said of the rules. Raises `PolicyError` for their errors."""
    # Findings point to the rules' places and speak of their component; equal rules may be written in several.
    written = tuple((rule.place, rule.layer) for rule in policy.rules)
    asked = policy.workload, policy.loading.attention, policy.ties
    what = "divided", policy.rules, written, policy.component, *asked
    return tree.remembered(what, lambda: _divide(policy, tree))


def _divide(policy: ResolvedPolicy, tree: ModelTree) -> _Divided:
    sizing = size_model(tree, policy.workload, attention_of(policy, tree))
    division = divide(tree, policy.rules, sizing)
    findings = findings_of_rules(policy, tree, division)
    wrong = [finding for finding in findings if finding.severity == "error"]
    if wrong:
        raise PolicyError(wrong)
    return sizing, colocate_ties(division, tree, policy), findings


def _selected(selector: DeviceSelector, policy: ResolvedPolicy, host: Host, consumer: Target) -> Selection:
    """Return the devices of an entry of `prefer`. Raises `Refused` where there are none for the consumer."""
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


def _search(division: Division, context: PlacementContext) -> tuple[Attempt, tuple[tuple[str, str], ...]]:
    """Return the attempt that the plan is made of, with notes for people. Raises `Refused` where nothing fits.

    First with each rule's first device that has room and devices in the order of their ids, then in any order, then
    with the rules' choices left to the search; what still does not fit is offloaded: what rules name, then what
    `overflow` allows.
    """
    if not any(rule.overflow for rule in context.policy.rules):
        return _searched(division, context, spilling=True)
    try:
        return _searched(division, context)
    except Refused:
        order, notes = leaving_first(apply_rules(division, context), division.units, context)
    leaving: dict[int, Offload] = {}
    for offloads in order:
        leaving.update(offloads)
        if may_fit(division.units, leaving, context):
            try:
                attempt, told = _searched(division, context, leaving)
            except Refused:
                continue
            return attempt, (*notes, *told)
    attempt, told = _searched(division, context, leaving, spilling=True)
    return attempt, (*notes, *told)


def _searched(
    division: Division,
    context: PlacementContext,
    leaving: Mapping[int, Offload] | None = None,
    *,
    spilling: bool = False,
) -> tuple[Attempt, tuple[tuple[str, str], ...]]:
    """Return an attempt with the units in `leaving` offloaded; with `spilling` as many more as `overflow` allows."""
    refused: Refused | None = None
    problems: list[Problem] = []
    ruled = any(rule.prefer for rule in context.policy.rules)
    for choose in (False, True) if ruled else (False,):
        try:
            assignment = colocate_blocks(
                division, context, apply_rules(division, context, choose=choose, leaving=leaving)
            )
        except Refused as found:
            refused = refused or found
            continue
        if choose and not assignment.choices:
            break
        problem = Problem(division.units, assignment, context)
        attempt = (None if choose else place(problem)) or scatter(problem)
        if attempt is not None:
            return (_faster(problem, attempt) if context.policy.split == "fastest" else attempt), assignment.notes
        problems.append(problem)
    for problem in problems if spilling else ():
        spilled = spill(problem)
        if spilled is not None:
            return spilled.attempt, (*problem.assignment.notes, *spilled.notes)
    raise refused or no_room(problems[0])
