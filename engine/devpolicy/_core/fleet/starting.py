"""Starting a fleet's plan on Ray: reserve, start, verify; and moving on to another plan.

Owns what is reserved and which actors run. Every worker plans again on what it sees. One that got other devices than
were planned says so and is replaced by one that is shown these by their ids; it is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from devpolicy._core.errors import Diagnostic, FleetError
from devpolicy._core.fleet.changes import moves
from devpolicy._core.fleet.library import require_ray
from devpolicy._core.fleet.plan import FleetPlan
from devpolicy._core.fleet.ray_forms import Bundle, actor_options, bundles, devices_of
from devpolicy._core.fleet.worker import Order, Report, Worker
from devpolicy._core.placement.plan import Plan
from devpolicy._core.public import public

Load = Callable[[Plan], Any]
TIMEOUT = 60.0


@dataclass
class _Placed:
    """One reservation, with the actors in it."""

    bundle: Bundle
    group: Any
    actors: dict[str, Any] = field(default_factory=dict)


@public("devpolicy.targets.ray")
class Running:
    """Components that run on a cluster by a plan. A context manager: what it started ends with it."""

    def __init__(self, plan: FleetPlan, loads: Mapping[str, Load], timeout: float) -> None:
        self.plan: FleetPlan = plan
        self.reports: dict[str, Report] = {}
        """What each worker found, by component."""
        self.replaced: dict[str, Report] = {}
        """What those found that were replaced."""
        self._loads, self._timeout = dict(loads), timeout
        self._placed: list[_Placed] = []
        self._ray = require_ray()

    @property
    def actors(self) -> dict[str, Any]:
        """The handle of each component's actor: `call.remote("method", …)` and `apply.remote(function, …)`."""
        found = {name: actor for one in self._placed for name, actor in one.actors.items()}
        return {name: found[name] for name in self.plan.components if name in found}

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all actors and give back what is reserved. What is gone already is no error."""
        while self._placed:
            self._end(self._placed.pop())

    def move(self, plan: FleetPlan, loads: Mapping[str, Load] | None = None) -> None:
        """Go on by another plan: what stays where it is goes on undisturbed, all else ends, and starts where it goes.

        Ray cannot widen what is reserved: what shares its GPUs with others than before starts again, on its node.

        Raises as `start` does; what stays then goes on.
        """
        loads = self._loads if loads is None else dict(loads)
        _check(plan, loads)
        wanted = {one.components: one for one in bundles(plan)}
        stays = self._staying(plan, wanted)
        for one in [one for one in self._placed if one not in stays.values()]:
            self._placed.remove(one)
            self._end(one)
        for names, one in stays.items():
            one.actors = dict(zip(names, one.actors.values(), strict=True))
            one.bundle = wanted[names]
        self.plan, self._loads = plan, loads
        self.reports = {name: self._ray.get(actor.report.remote()) for name, actor in self.actors.items()}
        self._start([one for names, one in wanted.items() if names not in stays])

    def _staying(self, plan: FleetPlan, wanted: Mapping[tuple[str, ...], Bundle]) -> dict[tuple[str, ...], _Placed]:
        """Return the reservations that go on, by the components that they are then for."""
        moved = {one.component for one in moves(self.plan, plan)}
        left, found = list(self._placed), dict[tuple[str, ...], _Placed]()
        for names, bundle in wanted.items():
            if moved.isdisjoint(names):
                alike = [one for one in left if _goes_on(one.bundle, bundle)]
                # A copy under its own name before any other.
                alike.sort(key=lambda one: one.bundle.components != names)
                if alike:
                    left.remove(alike[0])
                    found[names] = alike[0]
        return found

    def _start(self, wanted: list[Bundle]) -> None:
        """Reserve all bundles, then start all actors in them, then hear them."""
        from ray.util.placement_group import placement_group

        try:
            for bundle in wanted:
                selector = [dict(bundle.label_selector)]
                group = placement_group([dict(bundle.resources)], strategy="PACK", bundle_label_selector=selector)
                self._placed.append(_Placed(bundle, group))
            new = self._placed[len(self._placed) - len(wanted) :]
            for one in new:
                self._wait(one)
            for one in new:
                for name in one.bundle.components:
                    one.actors[name] = self._actor(one, name)
            for one in new:
                for name in one.bundle.components:
                    self._hear(one, name)
        except BaseException:
            self.close()
            raise

    def _wait(self, one: _Placed) -> None:
        if not one.group.wait(self._timeout):
            asked = ", ".join(f"{name} {amount:g}" for name, amount in one.bundle.resources.items())
            names = ", ".join(f"`{name}`" for name in one.bundle.components)
            where = ", ".join(f"{name}={value}" for name, value in one.bundle.label_selector.items())
            message = f"the cluster reserved nothing for {names} within {self._timeout:g} seconds: {asked} on {where}"
            hint = "`ray status` shows what is in use; a node is found by its label, and a card of its own needs its "
            hint += "resource: `devpolicy fleet show FLEET --ray` prints how each node is started"
            raise FleetError(Diagnostic("", message, help=hint))

    def _actor(self, one: _Placed, name: str, *, by_id: bool | None = None) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        planned = self.plan.components[name]
        options = actor_options(one.bundle, planned, by_id=by_id)
        strategy = PlacementGroupSchedulingStrategy(one.group, placement_group_bundle_index=0)
        assert planned.recipe is not None  # INVARIANT: `_check` saw it
        digest, devices = planned.plan.ordinal_free_digest, len(devices_of(planned))
        order = Order(planned.plan.component, planned.node, digest, devices, planned.recipe)
        actor = self._ray.remote(Worker).options(**options, max_restarts=0, scheduling_strategy=strategy)
        return actor.remote(order, _load_of(self._loads, name))

    def _hear(self, one: _Placed, name: str) -> None:
        report = self._report(one.actors[name], name)
        if report.other_devices:
            self.replaced[name] = report
            self._ray.kill(one.actors[name])
            one.actors[name] = self._actor(one, name, by_id=True)
            report = self._report(one.actors[name], name)
        if report.other_devices:
            raise FleetError(
                f"`{name}` on `{report.node}` gets other devices than were planned: {report.other_devices}"
            )
        self.reports[name] = report
        if report.differences:
            told = Diagnostic("", f"`{name}` is not loaded as it was planned", notes=report.differences[:8])
            raise FleetError(told)

    def _report(self, actor: Any, name: str) -> Report:
        try:
            report: Report = self._ray.get(actor.report.remote(), timeout=self._timeout)
        except self._ray.exceptions.GetTimeoutError:
            raise FleetError(f"`{name}` did not load within {self._timeout:g} seconds") from None
        except self._ray.exceptions.RayError as failed:
            told = [line for line in str(failed).strip().splitlines() if line.strip()]
            raise FleetError(f"`{name}` could not be started: {told[-1].strip() if told else failed}") from failed
        return report

    def _end(self, one: _Placed) -> None:
        from ray.util.placement_group import remove_placement_group

        for actor in one.actors.values():
            self._ray.kill(actor)
        remove_placement_group(one.group)


def _goes_on(before: Bundle, now: Bundle) -> bool:
    """Whether a reservation serves what is planned now: on the same node, the same devices, for copies of the same."""

    def stems(bundle: Bundle) -> list[str]:
        return [name.rpartition("/")[0] or name for name in bundle.components]

    return (before.node, before.devices, stems(before)) == (now.node, now.devices, stems(now))


def _load_of(loads: Mapping[str, Load], name: str) -> Load:
    """Return what loads a component; that of a component loads its replicas."""
    return loads[name] if name in loads else loads[name.rpartition("/")[0]]


def _check(plan: FleetPlan, loads: Mapping[str, Load]) -> None:
    """Raise `FleetError` where a component has nothing that loads it, or the plan cannot be made again."""
    missing = [name for name in plan.components if name not in loads and name.rpartition("/")[0] not in loads]
    if missing:
        hint = f'such as `start(plan, {{"{missing[0].rpartition("/")[0] or missing[0]}": load}})`'
        listed = ", ".join(f"`{name}`" for name in missing)
        raise FleetError(Diagnostic("", f"nothing loads {listed}", help=hint))
    if any(one.recipe is None for one in plan.components.values()):
        hint = "plan again from it: `plan_fleet(policy, models, fleet, before=plan)`"
        raise FleetError(Diagnostic("", "a plan that was read from a file cannot be started", help=hint))


@public("devpolicy.targets.ray")
def start(plan: FleetPlan, loads: Mapping[str, Load], *, timeout: float = TIMEOUT) -> Running:
    """Start a plan on the Ray cluster that this process is connected to: reserve, start, verify.

    `loads` maps each component to what loads it: a class or a function that is called in the actor with the `Plan` made
    there, on the devices that it sees. If what it returns is a module, or has one as `model`, every tensor's device is
    compared with the plan. `timeout` is in seconds, for each step of each component.

    Returns what runs, once everything is verified. Raises `FleetError` where the cluster reserves nothing in time, a
    component cannot be loaded, or is not where it was planned; then nothing of it is left running.
    """
    _check(plan, loads)
    running = Running(plan, loads, timeout)
    if not running._ray.is_initialized():
        raise FleetError(
            Diagnostic("", "this process is not connected to a cluster", help='`ray.init("auto")` connects')
        )
    running._start(list(bundles(plan)))
    return running
