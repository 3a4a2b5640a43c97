"""What one attempt to place a model has: devices with their budgets, the consumer, the policy, sizes and costs.

Owns the selection of devices: which ones a selector names on a host, without avoided and faulty ones, or why there are
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, reduce
from typing import TYPE_CHECKING

from devpolicy._core.abilities import Target
from devpolicy._core.cost.speeds import DeviceSpeed, Speeds, speed_of
from devpolicy._core.cost.times import Costs
from devpolicy._core.device import DeviceType
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.devices import alike
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.memory.activations import Runs
from devpolicy._core.memory.budgets import DeviceBudget, accelerator_budget, accelerator_of, cpu_budget, disk_budget
from devpolicy._core.memory.llama_cpp import ends_of, is_input
from devpolicy._core.memory.sizing import Sizing
from devpolicy._core.model.form import Held
from devpolicy._core.model.tree import ModelTree

if TYPE_CHECKING:
    from devpolicy._core.placement.divide import Unit


@dataclass(frozen=True, slots=True)
class Selection:
    """The devices that a selector names on a host, or why there are none."""

    devices: tuple[DeviceBudget, ...] = ()
    reason: str = ""


def select_devices(selector: DeviceSelector, policy: ResolvedPolicy, host: Host) -> Selection:
    """Return the devices that a selector names, in id order, without avoided and faulty ones."""
    if selector.type == "cpu":
        if avoids(policy, "cpu"):
            return Selection(reason="`avoid` excludes `cpu`")
        return Selection((cpu_budget(policy, host),))
    fault = host.fault(selector.type)
    if fault is not None:
        return Selection(reason=f"the `{selector.type}` driver failed: {fault}")
    named = [one for one in host.devices(selector.type) if selector.names(one)]
    if not named:
        return Selection(reason=_none_of(selector, host))
    working = [one for one in named if one.fault is None]
    if not working:
        faults = "; ".join(f"`{one.type}:{one.id}`: {one.fault}" for one in named)
        return Selection(reason=f"no usable device ({faults})")
    allowed = [one for one in working if not avoids(policy, one)]
    if not allowed:
        return Selection(reason=f"`avoid` excludes {_listed(f'{one.type}:{one.id}' for one in working)}")
    if selector.same or selector.count:
        allowed = alike(allowed, selector.same, selector.count)
    if selector.count:
        if len(allowed) < selector.count:
            same = f" with the same {' and '.join(selector.same)}" if selector.same else ""
            return Selection(reason=f"needs {selector.count} devices{same}, the host has {len(allowed)}")
        allowed = allowed[: selector.count]
    return Selection(tuple(accelerator_budget(one, policy, host) for one in allowed))


def _none_of(selector: DeviceSelector, host: Host) -> str:
    others = host.devices(selector.type)
    if not others:
        return f"the host has no `{selector.type}` device"
    if selector.device_class is not None:
        unlike = ", ".join(f"`{one.type}:{one.id}`: {selector.device_class.unlike(one)}" for one in others)
        return f"no device of the host is `{selector}` ({unlike})"
    return f"the host has no `{selector}`, it has {_listed(f'{one.type}:{one.id}' for one in others)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def avoids(policy: ResolvedPolicy, what: Accelerator | str) -> bool:
    """Whether `avoid` rules out an accelerator, or the CPU or the disk."""
    if isinstance(what, str):
        return any(selector.type == what for selector in policy.avoid)
    return any(selector.names(what) for selector in policy.avoid)


@dataclass(frozen=True)
class PlacementContext:
    """What one attempt to place a model has. Devices are spoken of by their numbers in `devices`."""

    kind: str
    """The type of device that the plan executes on."""
    devices: tuple[DeviceBudget, ...]
    """All usable devices of that type, in id order; a rule may name any of them."""
    open: frozenset[int]
    """The devices that the entry of `prefer` allows to the search."""
    target: Target
    policy: ResolvedPolicy
    host: Host
    held: Held
    sizing: Sizing
    pipelined: bool = True
    """Whether several accelerators may work at once, where that takes room for copies."""
    layers: Mapping[int, int] = field(default_factory=dict)
    """Devices that are taken to have several layers (1), a part (2), to join one (3), more by rules (4, 5)."""
    narrow: frozenset[int] = frozenset()
    """Devices that are given no matrix of experts but gates: see `Activations.narrow`."""
    changes: tuple[Callable[[DeviceBudget], DeviceBudget], ...] = ()
    """What `cpu` and `disk` have to spare for other things."""

    # Of many hosts nothing depends on these two: what is planned for one of them holds for all that differ in RAM.

    @cached_property
    def cpu(self) -> DeviceBudget:
        """The CPU's memory."""
        return reduce(lambda one, change: change(one), self.changes, cpu_budget(self.policy, self.host))

    @cached_property
    def disk(self) -> DeviceBudget:
        """The disk."""
        return reduce(lambda one, change: change(one), self.changes, disk_budget(self.policy, self.host))

    @property
    def tree(self) -> ModelTree:
        """The model, as it is held."""
        return self.held.tree

    @cached_property
    def costs(self) -> Costs:
        """What the units cost in time."""
        return self.costs_of(first_token=self.policy.workload.optimize == "first-token")

    def costs_of(self, *, first_token: bool) -> Costs:
        """Return what the units cost in time, over an answer or until its first token."""
        return Costs(self.tree, self.policy.workload, self.sizing, Speeds.of(self.host), first_token=first_token)

    @cached_property
    def speeds(self) -> tuple[DeviceSpeed, ...]:
        """How fast each device is."""
        return tuple(speed_of(one.device, self.host, self.sizing.dtype) for one in self.devices)

    @cached_property
    def cpu_number(self) -> int | None:
        """The number of the CPU, where the target computes there beside the accelerators; else `None`."""
        if self.kind == "cpu":
            return None
        return next((at for at, one in enumerate(self.devices) if str(one) == "cpu"), None)

    def computing_on(self, place: str) -> int | None:
        """Return the number of the device that computes what is kept on `place`; `None` where weights are streamed.

        A target that computes on the CPU can be given a device as a place, too.
        """
        if place == self.kind:
            return 0
        if self.cpu_number is None:
            return None
        return next((number for number, one in enumerate(self.devices) if str(one) == place), None)

    @cached_property
    def unified(self) -> bool:
        """Whether CPU and accelerators share one memory."""
        return any(one.unified for one in self.devices)

    @property
    def link(self) -> bool:
        """Whether what is offloaded comes over a link: not where everything is one memory."""
        return self.kind != "cpu" and not self.unified

    def storage(self, place: str) -> DeviceBudget:
        """Return the CPU or the disk, where what is offloaded is stored."""
        return self.cpu if place == "cpu" else self.disk

    def named(self, selector: DeviceSelector) -> tuple[list[int], str]:
        """Return the devices that a rule's selector names, and where there are none, why."""
        selection = select_devices(selector, self.policy, self.host)
        devices = {one.device for one in selection.devices}
        return [number for number, one in enumerate(self.devices) if one.device in devices], selection.reason

    @cached_property
    def usable_with_main(self) -> list[frozenset[int]]:
        """The devices that a plan may use with each device as its main device while weights are offloaded.

        accelerate takes as its main device the first of a Python set of the map's values, and onloads there what is
        offloaded. Integers of one group of eight are in order in any such set; across groups, and for the
        text that names devices other than CUDA's, the order is left to chance.
        """
        if self.target.abilities.main_device == "none":
            return [frozenset(range(len(self.devices)))] * len(self.devices)
        groups = [(one.device.id or 0) // 8 for one in self.devices]
        return [
            frozenset(number for number in range(main, len(groups)) if groups[number] == groups[main])
            if one.device.type is DeviceType.GPU
            else frozenset([main])
            for main, one in enumerate(self.devices)
        ]

    @cached_property
    def better_mains(self) -> list[list[int]]:
        """For each device the earlier ones that are alike, and may be used beside all that it may be used beside."""
        usable, each = self.usable_with_main, [*zip(self.devices, self.speeds, strict=True)]
        kinds = [(one.budget, one.kv_cache, one.activations, speed) for one, speed in each]
        return [
            [earlier for earlier in range(number) if kinds[earlier] == kind and usable[number] <= usable[earlier]]
            for number, kind in enumerate(kinds)
        ]

    def activations(self, number: int, runs: Runs, *, pipelined: bool) -> int:
        """Bytes of activations that a device needs, by what it runs, and by whether it works at once with others."""
        stated, found = self.devices[number].activations, self.sizing.activations
        if stated is not None:
            return stated
        return found.on(runs, pipelined=pipelined) if any(found[1:]) else found.each

    @cached_property
    def _ends(self) -> Mapping[int, int]:
        """Bytes that the units of the first layer and of the head are charged with while devices are searched for.

        None where each device has room for them: where activations or cache are stated, units are counted in another
        way.
        """
        if any(one.activations is not None or one.kv_cache is not None for one in self.devices):
            return {}
        found, charged = self.sizing.activations, dict[int, int]()
        sizes = {"head": found.head, "first": found.first, "embedding": found.embedded}
        for end, at in ends_of(self.tree).items():
            charged[at] = charged.get(at, 0) + sizes[end]
        return charged

    def runs(self, units: Sequence[Unit]) -> Runs:
        """Return what of a model's ends is among units, as `activations` takes it."""
        ends = ends_of(self.tree)
        here = {end: any(unit.start <= at < unit.end for unit in units) for end, at in ends.items()}
        return Runs(**here)

    def beside_cpu(self, units: Iterable[Unit]) -> bool:
        """Whether units that compute on the CPU are more than the embedding of the input."""
        return any(not is_input(self.tree.modules[unit.start]) for unit in units)

    def fixed(self, number: int, *, beside_cpu: bool = False) -> int:
        """Bytes that a device needs before anything is placed on it: activations, and a KV cache that is reserved."""
        everywhere = any(self.sizing.activations[1:]) and not self._ends
        layers = self.layers.get(number, 0)
        narrow, found = number in self.narrow, self.sizing.activations
        ends = everywhere, everywhere, everywhere
        ruled = layers > 3
        runs = Runs(*ends, layers > 0, layers > 1, layers > 2, narrow, scattered=ruled, apart=ruled, cut=layers > 4)
        activations = self.activations(number, runs, pipelined=self.pipelined and not beside_cpu)
        if narrow and self._ends:
            # A head is charged with its unit: what it takes more here is kept free on each.
            activations += max(0, found.narrow_head - found.head)
        return activations + (self.devices[number].kv_cache or 0)

    def caches(self, units: Iterable[Unit]) -> list[int]:
        """Bytes that each unit needs where it runs, as `while_running` gives them."""
        if not any(self.sizing.activations[1:]):
            return [unit.kv_cache for unit in units]
        return [self.while_running(unit) for unit in units]

    def while_running(self, unit: Unit) -> int:
        """Bytes that a unit needs where it runs, wherever its weights are: its KV cache, and what its ends need."""
        if not any(self.sizing.activations[1:]):
            return unit.kv_cache
        return unit.kv_cache + sum(size for at, size in self._ends.items() if unit.start <= at < unit.end)

    def with_reserved(self, reserved: Mapping[str, int]) -> PlacementContext:
        """Return this context with what other components have `reserved` of its devices, in bytes by name."""

        def beside(one: DeviceBudget) -> DeviceBudget:
            return one.with_reserved(reserved)

        return replace(self, devices=tuple(map(beside, self.devices)), changes=(*self.changes, beside))

    def with_room_for_loading(self, rooms: Mapping[str, int]) -> PlacementContext:
        """Return this context with bytes kept free on devices, by name, for what is there while weights are loaded."""

        def kept(one: DeviceBudget) -> DeviceBudget:
            return one if str(one) == "disk" else replace(one, for_loading=rooms.get(str(one), 0))

        return replace(self, devices=tuple(map(kept, self.devices)), changes=(*self.changes, kept))

    def needs(self, number: int, resident: int, running: int) -> int:
        """Bytes that weights with their buffers, and what they need while they run, add on a device."""
        return resident + (running if self.devices[number].kv_cache is None else 0)


def context_for(
    selector: DeviceSelector,
    selection: Selection,
    policy: ResolvedPolicy,
    host: Host,
    target: Target,
    held: Held,
    sizing: Sizing,
) -> PlacementContext:
    """Return the context of an entry of `prefer`, given the devices that it selects."""
    # Rules may name any device of the type, the search only those of the entry.
    whole_type = DeviceSelector(selector.type)
    everywhere = (
        selection if selector in (whole_type, DeviceSelector("cpu")) else select_devices(whole_type, policy, host)
    )
    named = selection.devices
    unified = [one for one in named if one.unified]
    computes = selector.type != "cpu" and not unified and target.abilities.computes_on("cpu")
    beside = (cpu_budget(policy, host),) if computes and not avoids(policy, "cpu") else ()
    return PlacementContext(
        kind=selector.type,
        devices=(*everywhere.devices, *beside),
        # Of the sides of one pool only one.
        open=frozenset(at for at, one in enumerate(everywhere.devices) if one in named and one not in unified[1:]),
        target=target,
        policy=policy if target.abilities.maps else replace(policy, split="never"),
        host=host,
        held=held,
        sizing=sizing,
    )


def with_one_fraction(context: PlacementContext) -> PlacementContext:
    """Return a context whose devices all give the same fraction of their total: as much as the one that gives least.

    That is how much a target takes which is told one number for all of them.
    """
    named = {at: accelerator_of(context.devices[at].device, context.host) for at in sorted(context.open)}
    totals = {at: one.memory for at, one in named.items() if one is not None}
    rooms = {at: one.cap - one.headroom - one.used_by_others for at, one in enumerate(context.devices)}
    gives = {at: max(0, rooms[at]) for at in totals}
    least = min(totals, key=lambda at: Fraction(gives[at], totals[at]), default=None)
    if least is None:
        return context

    def limited(at: int, one: DeviceBudget) -> DeviceBudget:
        room = gives[least] * totals[at] // totals[least]
        return replace(one, cap=one.headroom + one.used_by_others + room)

    devices = tuple(limited(at, one) if at in totals else one for at, one in enumerate(context.devices))
    return replace(context, devices=devices)
