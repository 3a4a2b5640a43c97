"""The plan of a model that was placed.

Owns `PlacedModel`, and what a plan says of it: each unit, the device map, what loading needs to know, the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from devpolicy._core.cost.prediction import Prediction, prediction
from devpolicy._core.cost.times import Costs, Times
from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import DeviceSelector
from devpolicy._core.memory.sizing import sequences_of
from devpolicy._core.placement.candidates import OVERFLOW
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division
from devpolicy._core.placement.kept_by_engine import gpu_experts
from devpolicy._core.placement.ledger import Budget, several_accelerators
from devpolicy._core.placement.loading import loading_of
from devpolicy._core.placement.maps import device_map
from devpolicy._core.placement.plan import Placement, Placements, Plan, PlannedWorkload, Trace
from devpolicy._core.placement.search import Attempt, Solution


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
    streaming: str | None = None
    """The mode of the target by which the whole model is streamed."""
    groups: Mapping[Device, tuple[Device, ...]] = field(default_factory=dict)
    """The devices that share each unit, by the first of them."""
    kept: int = 0
    """Bytes of each device that the engine keeps on the CPU."""


def plan_of(placed: PlacedModel) -> Plan:
    """Return the plan of a model that was placed. Raises `Unsatisfiable` (DP403) for its map."""
    context, solution, policy = placed.context, placed.solution, placed.context.policy
    rewritten = [at for at, offload in solution.offloaded.items() if offload.place == "disk"]
    size = sum(placed.division.units[at].rewritten for at in rewritten)
    placements, device = _written(placed)
    # What chose the plan is told: the times under `fastest`, and where `overflow` took part.
    spilling = {OVERFLOW, *(rule.name for rule in policy.rules if rule.overflow)}
    predicted = policy.split == "fastest" or any(one.rule in spilling for one in solution.offloaded.values())
    return Plan(
        component=policy.component,
        target=context.target.name,
        # Of a model that is streamed as a whole, the device is the one that runs it.
        device=None if placed.groups else _runs(placements) if placed.streaming else device,
        placements=_shared(placements, placed.groups) if placed.groups else placements,
        ledger=placed.ledger,
        warnings=placed.warnings,
        loading=loading_of(
            policy,
            context.held,
            _folder(policy.disk_path, policy.component) if size else None,
            size,
            elsewhere=bool(placed.solution.offloaded),
        ),
        prediction=predict(placed) if predicted else None,
        workload=None if context.target.abilities.assigns in ("one", "units") else _workload(placed),
        streaming=placed.streaming,
        kept_by_engine=placed.kept,
        gpu_experts=gpu_experts(context, placed.kept) if placed.kept else None,
        trace=placed.trace,
    )


def _runs(placements: Placements) -> ComponentDevice:
    return ComponentDevice.from_single(placements.devices[0])


def _shared(placements: Placements, groups: Mapping[Device, tuple[Device, ...]]) -> Placements:
    """Return the units with the group that shares each, and the bytes of all its members."""

    def of(unit: Placement) -> Placement:
        group = groups[unit.runs_on]
        listed = " and ".join(f"`{device}`" for device in group)
        return replace(unit, group=group, reason=f"divided over {listed}", bytes=unit.bytes * len(group))

    return Placements({path: of(unit) for path, unit in placements.items()})


_Written = tuple[Placements, ComponentDevice]
"""What of a plan says where each part is: the same on every host on which a model is placed alike."""


def _written(placed: PlacedModel) -> _Written:
    context, solution = placed.context, placed.solution
    ids = tuple(one.device.id for one in context.devices)
    ruled = tuple((at, rule.name, rule.reason) for at, rule in solution.ruled.items())
    what = (
        *("plan", placed.division, placed.selector, context.kind, ids, solution.device, solution.main, ruled),
        *(tuple(solution.offloaded.items()), tuple(solution.runs_on_main.items())),
    )
    return context.tree.remembered(what, lambda: _write(placed))


def _write(placed: PlacedModel) -> _Written:
    units, context, solution = placed.division.units, placed.context, placed.solution
    count = len(set(solution.device))
    stored: list[Device] = []
    placements: dict[str, Placement] = {}
    for at, unit in enumerate(units):
        runs_on = context.devices[solution.device[at]].device
        offload = solution.offloaded.get(at)
        device = context.storage(offload.place).device if offload else runs_on
        stored.append(device)
        rule, reason = _why(placed.selector, context, solution, at, count)
        weights = unit.elsewhere if offload else unit.weights
        placements[unit.path] = Placement(device, runs_on, rule, reason, weights + unit.buffers)
    entries = device_map(context.tree, units, stored) if units else {"": context.devices[solution.main].device}
    single = entries.get("")
    if single is None or single.type is DeviceType.DISK:
        return Placements(placements), ComponentDevice.from_multiple(DeviceMap(entries))
    return Placements(placements), ComponentDevice.from_single(single)


def predict(placed: PlacedModel) -> Prediction:
    """Return the predicted time of a model that was placed."""
    context, solution = placed.context, placed.solution
    places = {at: offload.place for at, offload in solution.offloaded.items()}
    devices = {str(context.devices[number]): context.speeds[number] for number in sorted(set(solution.device))}

    def timed(costs: Costs) -> tuple[Costs, Times]:
        times = costs.times(placed.division.units, solution.device, places, context.speeds, link=context.link)
        return costs, times

    token, first = timed(context.costs_of(first_token=False)), timed(context.costs_of(first_token=True))
    return prediction(token, first, devices, set(places.values()))


def _workload(placed: PlacedModel) -> PlannedWorkload:
    """Return what an engine is told that allocates the cache itself."""
    context = placed.context
    workload, sizing = context.policy.workload, context.sizing
    kept = workload.kv_dtype or sizing.dtype
    away = workload.kv_offload if context.link else None
    pipelined = context.pipelined or not several_accelerators(placed.division.units, placed.solution, context)
    sequences = sequences_of(context.tree, workload)
    return PlannedWorkload(sizing.context, sequences, kept, away, pipelined, _slots(context) * sequences)


def _slots(context: PlacementContext) -> int:
    """Return how many states of a sequence an engine must have slots for, 0 where it needs not be told."""
    abilities = context.target.abilities
    if abilities.states == 1 or abilities.state_pages or all(one.window != 1 for one in context.tree.kv_cache):
        return 0
    from devpolicy._core.memory.recurrent import recurrent_modules

    return abilities.states if recurrent_modules(context.tree) else 0


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


def _why(
    selector: DeviceSelector, context: PlacementContext, solution: Solution, at: int, count: int
) -> tuple[str, str]:
    offload, rule = solution.offloaded.get(at), solution.ruled.get(at)
    if offload is not None:
        return offload.rule, offload.reason
    device = context.devices[solution.device[at]]
    if rule is not None:
        return rule.name, rule.reason or f"rule `{rule.name}` runs it on `{device}`"
    if at in solution.runs_on_main:
        return "prefer", f"{solution.runs_on_main[at]} `{device}`"
    share = "the only device that is needed" if count == 1 else f"one of {count} that share the model"
    return "prefer", f"`{selector}` fits; `{device}` is {share}"
