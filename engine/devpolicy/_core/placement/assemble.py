"""The plan of a model that was placed.

Owns what a plan says of each unit, its device map, what loading needs to know, and the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping

from devpolicy._core.cost.prediction import Prediction, prediction
from devpolicy._core.cost.times import Costs, Times
from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import DeviceSelector
from devpolicy._core.memory.sizing import sequences_of
from devpolicy._core.placement.candidates import OVERFLOW
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division
from devpolicy._core.placement.ledger import Budget
from devpolicy._core.placement.loading import loading_of
from devpolicy._core.placement.maps import device_map
from devpolicy._core.placement.plan import Placement, Placements, Plan, PlannedWorkload, Trace
from devpolicy._core.placement.search import Solution


def assemble(
    selector: DeviceSelector,
    division: Division,
    context: PlacementContext,
    solution: Solution,
    ledger: Mapping[str, Budget],
    component: str | None,
    warnings: tuple[Diagnostic, ...],
    trace: Trace,
) -> Plan:
    """Return the plan. `selector` is the entry of `prefer` that fits. Raises `Unsatisfiable` (DP403) for its map."""
    units, policy = division.units, context.policy
    placements, device = _written(selector, division, context, solution)
    rewritten = sum(units[at].rewritten for at, offload in solution.offloaded.items() if offload.place == "disk")
    folder = _folder(policy.disk_path, component) if rewritten else None
    return Plan(
        component=component,
        target=context.target.name,
        device=device,
        placements=placements,
        ledger=ledger,
        warnings=warnings,
        loading=loading_of(policy, context.held, folder, rewritten),
        prediction=predict(division, context, solution) if _goes_by_time(context, solution) else None,
        workload=None if context.target.abilities.assigns in ("one", "units") else _workload(context),
        trace=trace,
    )


_Written = tuple[Placements, ComponentDevice]
"""What of a plan says where each part is: the same on every host on which a model is placed alike."""


def _written(selector: DeviceSelector, division: Division, context: PlacementContext, solution: Solution) -> _Written:
    ids = tuple(one.device.id for one in context.devices)
    ruled = tuple((at, rule.name, rule.reason) for at, rule in solution.ruled.items())
    offloaded, on_main = tuple(solution.offloaded.items()), tuple(solution.runs_on_main.items())
    what = "plan", division, selector, context.kind, ids, solution.device, solution.main, offloaded, ruled, on_main
    return context.tree.remembered(what, lambda: _write(selector, division, context, solution))


def _write(selector: DeviceSelector, division: Division, context: PlacementContext, solution: Solution) -> _Written:
    units, count = division.units, len(set(solution.device))
    stored: list[Device] = []
    placements: dict[str, Placement] = {}
    for at, unit in enumerate(units):
        runs_on = context.devices[solution.device[at]].device
        offload = solution.offloaded.get(at)
        device = context.storage(offload.place).device if offload else runs_on
        stored.append(device)
        rule, reason = _why(selector, context, solution, at, count)
        placements[unit.path] = Placement(device, runs_on, rule, reason, unit.weights + unit.buffers)
    entries = device_map(context.tree, units, stored) if units else {"": context.devices[solution.main].device}
    single = entries.get("")
    if single is None or single.type is DeviceType.DISK:
        return Placements(placements), ComponentDevice.from_multiple(DeviceMap(entries))
    return Placements(placements), ComponentDevice.from_single(single)


def _goes_by_time(context: PlacementContext, solution: Solution) -> bool:
    """Whether a plan was chosen by its predicted time: under `fastest`, and where `overflow` took part."""
    spilling = {OVERFLOW, *(rule.name for rule in context.policy.rules if rule.overflow)}
    return context.policy.split == "fastest" or any(one.rule in spilling for one in solution.offloaded.values())


def predict(division: Division, context: PlacementContext, solution: Solution) -> Prediction:
    """Return the predicted time of a placement."""
    places = {at: offload.place for at, offload in solution.offloaded.items()}
    devices = {str(context.devices[number]): context.speeds[number] for number in sorted(set(solution.device))}

    def timed(costs: Costs) -> tuple[Costs, Times]:
        times = costs.times(division.units, solution.device, places, context.speeds, link=context.link)
        return costs, times

    token, first = timed(context.costs_of(first_token=False)), timed(context.costs_of(first_token=True))
    return prediction(token, first, devices, set(places.values()))


def _workload(context: PlacementContext) -> PlannedWorkload:
    """Return what an engine is told that allocates the cache itself."""
    workload, sizing = context.policy.workload, context.sizing
    return PlannedWorkload(sizing.context, sequences_of(context.tree, workload), workload.kv_dtype or sizing.dtype)


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
