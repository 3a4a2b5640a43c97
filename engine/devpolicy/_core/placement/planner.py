"""From a policy, a host and a model tree to a plan.

Owns the order of things: the terms of `prefer` are tried one after the other, each a trial of rules and
search, and the first that serves becomes the plan. A pure function of its arguments: it reads no
environment, no clock, no file and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.policy import Policy, Term
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement import ties
from devpolicy._core.placement.blocks import hold_together
from devpolicy._core.placement.choice import no_preference
from devpolicy._core.placement.cost import Costs, predict
from devpolicy._core.placement.joint import misnamed, one_piece
from devpolicy._core.placement.ledger import ledger_of
from devpolicy._core.placement.lint import findings_of_rules
from devpolicy._core.placement.maps import device_map
from devpolicy._core.placement.overflow import OVERFLOW, spill
from devpolicy._core.placement.plan import Budget, Load, Placement, Placements, Plan
from devpolicy._core.placement.prediction import Prediction
from devpolicy._core.placement.remedy import remedies
from devpolicy._core.placement.rules import Refused, World, assign
from devpolicy._core.placement.search import Problem, Solution, no_room, place
from devpolicy._core.placement.seats import Seat, cpu_seat, disk_seat, find, pooled
from devpolicy._core.placement.sizing import Sizing, size_model
from devpolicy._core.placement.speeds import Speeds
from devpolicy._core.placement.targets import DEFAULT_TARGET, Target, target_of
from devpolicy._core.placement.trace import Trace
from devpolicy._core.placement.units import Division, Unit, divide


@dataclass(slots=True)
class _Work:
    """What every trial of one plan shares."""

    policy: Policy
    tree: ModelTree
    host: Host
    target: Target
    sizing: Sizing
    division: Division
    groups: list[list[int]]
    claims: Mapping[str, int]
    trace: Trace
    costs: Costs


def make_plan(
    policy: Policy,
    tree: ModelTree | None,
    host: Host,
    *,
    component: str | None = None,
    cls: str | None = None,
    target: str | None = None,
    claims: Mapping[str, int] | None = None,
    advise: bool = True,
) -> Plan:
    """Place `tree` on `host` under what `policy` says of a component, for a consumer.

    Without a tree, the component is the bytes that the policy says it `needs`. `cls` is the path of the component's
    class. `target` is by default the policy's, else `"hf"`. `claims` are bytes by device that components planned
    before take.

    Raises `Unsatisfiable` where the host has not what the policy requires, no term of `prefer` serves (DP3xx) or the
    consumer could not take it (DP4xx), and `PolicyError` where a rule names a tensor (DP203), or a rule of the
    component's own matches nothing (DP501). With `advise` a refusal for want of room says what smallest change would
    do, found by planning again.
    """
    policy = policy.overlaid(host)
    flat = policy.for_component(component, cls)
    warnings = misnamed(policy, component)
    consumer = target_of(target or flat.target or DEFAULT_TARGET)
    if tree is None:
        flat, tree = one_piece(policy, flat, component, cls)

    def make(policy: Policy, host: Host) -> Plan:
        return _make(policy, tree, host, component, consumer, claims, warnings)

    try:
        return make(flat, host)
    except Unsatisfiable as refused:
        if not advise or refused.code not in ("DP301", "DP302", "DP303"):
            raise
        first, *rest = refused.diagnostics

    def attempt(policy: Policy, host: Host) -> Plan | None:
        try:
            return make(policy, host)
        except (Unsatisfiable, PolicyError):  # on another host other rules apply
            return None

    help_ = remedies(flat, tree, host, attempt)
    raise Unsatisfiable([replace(first, help=help_ or first.help), *rest])


def _make(
    policy: Policy,
    tree: ModelTree,
    host: Host,
    component: str | None,
    consumer: Target,
    claims: Mapping[str, int] | None,
    told: Sequence[Diagnostic],
) -> Plan:
    policy = policy.for_host(host)
    check_requirements([policy.require, *policy.required], host)
    if tree.incomplete_reason and consumer.maps:
        message = f"the structure of `{tree.name}` is not known in full"
        hint = 'plan for one device, which needs no map: `target = "torch"`, or `--to torch`'
        raise Unsatisfiable(Diagnostic("DP407", message, notes=(tree.incomplete_reason,), help=hint))
    sizing = size_model(tree, policy.workload)
    division = divide(tree, policy.rules, sizing)
    findings = findings_of_rules(policy, tree, division, component)
    wrong = [finding for finding in findings if finding.severity == "error"]
    if wrong:
        raise PolicyError(wrong)
    if tree.incomplete_reason:
        message = f"the structure of `{tree.name}` is not known in full"
        told = (*told, Diagnostic("DP407", message, notes=(tree.incomplete_reason,), severity="warning"))
    unlike = [Diagnostic("DP412", note, severity="warning") for note in tree.loading.notes]
    warnings = [*told, *policy.notices, *unlike, *findings]
    costs = Costs(tree, policy.workload, sizing, Speeds.of(host))
    groups = ties.bind(tree, division.units, policy)
    work = _Work(policy, tree, host, consumer, sizing, division, groups, pooled(claims or {}, host), Trace(), costs)
    refusals: list[tuple[Term, Diagnostic]] = []
    for term in policy.prefer:
        work.trace.forget_notes()
        try:
            world, solution, ledger = _trial(term, work)
        except Refused as refused:
            work.trace.term(str(term), refused.finding.message)
            refusals.append((term, refused.finding))
            continue
        work.trace.term(str(term), "serves")
        return _plan(term, world, solution, ledger, work, component, warnings)
    raise Unsatisfiable(_refusal(policy, tree, refusals))


def _trial(term: Term, work: _Work) -> tuple[World, Solution, dict[str, Budget]]:
    """Try one term. Raises `Refused` with the reason where it does not serve."""
    if term.type not in work.target.types:
        raise Refused(Diagnostic("DP409", f"`{work.target.name}` cannot run on `{term.type}`"))
    found = find(term, work.policy, work.host)
    if not found.seats:
        raise Refused(Diagnostic("DP301", found.reason))
    # Rules may name any device of the type, the search only those of the term.
    everywhere = found.seats if term.type == "cpu" else find(Term(term.type), work.policy, work.host).seats
    world = World(
        kind=term.type,
        seats=tuple(seat.claimed(work.claims) for seat in everywhere),
        open=_open(everywhere, found.seats),
        cpu=cpu_seat(work.policy, work.host).claimed(work.claims),
        disk=disk_seat(work.policy, work.host).claimed(work.claims),
        target=work.target,
        policy=work.policy if work.target.maps else replace(work.policy, split="never"),
        host=work.host,
        sizing=work.sizing,
        costs=work.costs,
    )
    units = work.division.units
    assignment = assign(units, work.groups, world, work.trace)
    hold_together(units, world, assignment)
    work.trace.problem = problem = Problem(units, assignment, world)
    attempt = place(problem) or spill(problem, work.trace)
    if attempt is None:
        raise no_room(problem)
    solution = attempt.solution()
    if not work.target.maps and len(set(solution.seat)) > 1:
        raise Refused(Diagnostic("DP409", f"several devices are needed, and `{work.target.name}` takes one"))
    ledger = ledger_of(units, solution, world)
    over = next((device for device, budget in ledger.items() if device != "disk" and budget.free < 0), None)
    if over is not None:
        # Each side of a shared pool has room by itself, and rules run something on several.
        raise Refused(
            Diagnostic("DP301", f"`{over}` shares its memory with other devices, and together they have no room")
        )
    beyond = _beyond_share(world, ledger)
    if beyond is not None:
        raise Refused(Diagnostic("DP301", f"all sides of `{beyond}` together are more than the component's share"))
    return world, solution, ledger


def _beyond_share(world: World, ledger: Mapping[str, Budget]) -> str | None:
    """Return a device of which more than the share is taken: on a shared pool, all sides count on each."""
    seats = {str(seat): seat for seat in (*world.seats, world.cpu)}
    beyond = (device for device, seat in seats.items() if device in ledger and seat.share)
    return next((one for one in beyond if ledger[one].used - seats[one].others > seats[one].own), None)


def _open(everywhere: Sequence[Seat], named: Sequence[Seat]) -> frozenset[int]:
    """Number the seats that the search may use: those that the term names, and of the sides of one pool only one."""
    unified = [seat for seat in named if seat.unified]
    return frozenset(number for number, seat in enumerate(everywhere) if seat in named and seat not in unified[1:])


def _plan(
    term: Term,
    world: World,
    solution: Solution,
    ledger: dict[str, Budget],
    work: _Work,
    component: str | None,
    warnings: Sequence[Diagnostic],
) -> Plan:
    units = work.division.units
    devices = len(set(solution.seat))
    held: list[Device] = []
    placements: dict[str, Placement] = {}
    for at, unit in enumerate(units):
        runs_on = world.seats[solution.seat[at]].device
        kept = solution.kept.get(at)
        device = Device.from_str(kept.place) if kept else runs_on
        held.append(device)
        rule, reason = _why(term, world, solution, at, devices)
        placements[unit.path] = Placement(device, runs_on, rule, reason, unit.weights + unit.buffers)
    entries = device_map(work.tree, units, held) if units else {"": world.seats[solution.main].device}
    single = entries.get("")
    asked, loading = work.policy.workload.dtype, work.tree.loading
    rewritten = sum(units[at].rewritten for at, kept in solution.kept.items() if kept.place == "disk")
    return Plan(
        component=component,
        target=work.target.name,
        device=ComponentDevice.from_multiple(DeviceMap(entries))
        if single is None or single.type is DeviceType.DISK
        else ComponentDevice.from_single(single),
        placements=Placements(placements),
        ledger=ledger,
        warnings=tuple(warnings),
        load=Load(
            asked,
            _folder(work.policy.disk_path, component) if rewritten else None,
            rewritten,
            None if asked else work.tree.default_dtype,
            loading.attention,
            loading.experts,
        ),
        prediction=_prediction(units, world, solution),
        trace=work.trace,
    )


def _prediction(units: Sequence[Unit], world: World, solution: Solution) -> Prediction | None:
    """Return what is predicted, where the plan was chosen by it: under `fastest`, and where `overflow` took part."""
    chosen = world.policy.split == "fastest" or any(kept.rule == OVERFLOW for kept in solution.kept.values())
    return predict(units, solution, world) if chosen else None


def _folder(path: str | None, component: str | None) -> str | None:
    """Return the folder of one component's rewritten weights.

    transformers names a file there by its tensor, so two models in one folder would overwrite each other's weights, and
    answer with them.
    """
    if path is None or component is None:
        return path
    from urllib.parse import quote  # not needed before, and slow to import

    name = quote(component, safe="", errors="surrogatepass")
    # Empty, `.` and `..` name no folder of their own; quoting never gives what is written for them.
    return f"{path}/{name}" if name.strip(".") else f"{path}/%{name}"


def _why(term: Term, world: World, solution: Solution, at: int, devices: int) -> tuple[str, str]:
    kept, pin = solution.kept.get(at), solution.pinned.get(at)
    if kept is not None:
        return kept.rule, kept.reason
    seat = world.seats[solution.seat[at]]
    if pin is not None:
        return pin.name, pin.reason or f"rule `{pin.name}` runs it on `{seat}`"
    if at in solution.with_main:
        return "prefer", f"{solution.with_main[at]} `{seat}`"
    share = "the only device that is needed" if devices == 1 else f"one of {devices} that share the model"
    return "prefer", f"`{term}` serves; `{seat}` is {share}"


def _refusal(policy: Policy, tree: ModelTree, refusals: Sequence[tuple[Term, Diagnostic]]) -> list[Diagnostic]:
    """Return the finding of a plan that no term serves.

    Where the devices were there and one rule or consumer stood in the way, its own finding says so; else DP301
    lists each term with its reason.
    """
    if not policy.prefer:
        return [no_preference()]
    notes = tuple(f"`{term}`: {finding.message}" for term, finding in refusals)
    specific = {finding.code: finding for _, finding in refusals if finding.code != "DP301"}
    if len(specific) == 1 and not any(
        finding.code == "DP301" and "needs" in finding.message for _, finding in refusals
    ):
        finding = next(iter(specific.values()))
        others = tuple(f"`{term}`: {other.message}" for term, other in refusals if other is not finding)
        return [replace(finding, notes=(*finding.notes, *others))]
    listed = ", ".join(f"`{term}`" for term in policy.prefer)
    return [
        Diagnostic("DP301", f"nothing in `prefer` can hold `{tree.name}`: {listed}", policy.prefer_place, "", notes)
    ]
