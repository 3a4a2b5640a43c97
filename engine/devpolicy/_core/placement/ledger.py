"""The ledger of a plan: what each device is asked to hold.

Owns `Budget` and the sums, taken anew from the placement and not from the search, so that an error of the search
shows in a broken invariant; and what of it a plan reserves beside the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic
from devpolicy._core.memory.activations import Runs
from devpolicy._core.memory.llama_cpp import is_mixture
from devpolicy._core.placement.apply_rules import Refused
from devpolicy._core.placement.computing import (
    apart_on,
    between_on,
    cuts_attention,
    joined_on,
    layers_on,
    narrow_on,
    scattered_on,
)
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.search import Solution
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan


@dataclass(frozen=True, slots=True)
class Budget:
    """What one device is asked to hold, in bytes.

    INVARIANT: on every device but the disk, `used + headroom <= cap`. On the disk `weights` counts all that is kept
    there, and only what must be rewritten has to fit.
    """

    weights: int = 0
    kv_cache: int = 0
    activations: int = 0
    streaming: int = 0
    """The largest module that is brought here for a moment, from the CPU or the disk."""
    load: int = 0
    """What it holds at most while weights are loaded: the weights, and one tensor twice that is made of others."""
    used_by_others: int = 0
    """What components planned before take, and on a pool shared with the CPU what its other side takes."""
    headroom: int = 0
    cap: int = 0

    @property
    def held(self) -> int:
        """Bytes that the component takes while it runs."""
        return self.weights + self.kv_cache + self.activations + self.streaming

    @property
    def loading(self) -> int:
        """Bytes that loading takes beyond those."""
        return max(0, self.load - self.held)

    @property
    def used(self) -> int:
        """Bytes that are spoken for, without the headroom."""
        return max(self.held, self.load) + self.used_by_others

    @property
    def free(self) -> int:
        """Bytes left for more."""
        return self.cap - self.headroom - self.used

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Budget:
        """Read what `to_dict` wrote, also before there was a `load`. Raises `TypeError`, `KeyError` where malformed."""
        given = {"load": data["weights"], **data}
        figures = {name: given[key] for name, key in BUDGET_KEYS.items()}
        wrong = next((name for name, size in figures.items() if type(size) is not int), None)
        if wrong is not None:
            raise TypeError(f"`{wrong}` of a budget is a whole number")
        return cls(**figures)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, int]:
        """Return the figures for JSON, in the order of the invariant."""
        return {key: getattr(self, name) for name, key in BUDGET_KEYS.items()}


_NAMES = ("weights", "kv_cache", "activations", "streaming", "load", "used_by_others", "headroom", "cap")

BUDGET_KEYS = {name: "others" if name == "used_by_others" else name for name in _NAMES}
"""The figures of a budget, each with its key in JSON."""


def ledger_of(units: Sequence[Unit], solution: Solution, context: PlacementContext) -> dict[str, Budget]:
    """Return the budgets of the devices that are used: executing ones in id order, then `cpu`, then `disk`.

    INVARIANT: on each but the disk, `used + headroom <= cap`.
    """
    ledger: dict[str, Budget] = {}
    offloaded = solution.offloaded
    found = context.sizing.activations
    pipelined = bool(found.copies) and context.pipelined and several_accelerators(units, solution, context)
    several, parted, joined, narrow = set[int](), set[int](), set[int](), set[int]()
    scattered, apart = set[int](), set[int]()
    if found.parted:
        mixture = is_mixture(context.tree)
        several, parted = layers_on(units, solution.device, context.cpu_number, mixture=mixture)
        apart = apart_on(units, solution.device, context.tree)
        if mixture:
            joined = joined_on(units, solution.device, context.cpu_number)
            scattered = {*scattered_on(units, solution.device, context.cpu_number).values()}
    cut = found.scores > 0 and cuts_attention(units, solution.device)
    if found.narrow:
        narrow = narrow_on(units, solution.device, context.cpu_number, context.tree)
        between = between_on(units, solution.device)
        several, parted = several - between, parted - between
    away = {place: [units[at] for at, one in offloaded.items() if one.place == place] for place in ("cpu", "disk")}
    on_cpu = sum(unit.elsewhere for unit in away["cpu"])
    # By side of the one pool that integrated accelerators share with the CPU.
    pool = {"cpu": on_cpu}
    for number in sorted(set(solution.device)):
        one = context.devices[number]
        running = [at for at, device in enumerate(solution.device) if device == number]
        is_main = number == solution.main
        buffers = sum(units[at].buffers for at in offloaded) if is_main else 0
        resident = [units[at] for at in running if at not in offloaded]
        weights = sum(unit.resident for unit in resident) + buffers
        ledger[str(one)] = Budget(
            weights=weights,
            kv_cache=sum(units[at].kv_cache for at in running) if one.kv_cache is None else one.kv_cache,
            activations=context.activations(
                number,
                context.runs([units[at] for at in running])._replace(
                    several=number in several,
                    parted=number in parted,
                    joined=number in joined,
                    narrow=number in narrow,
                    scattered=number in scattered,
                    apart=number in apart,
                    cut=cut,
                )
                if any(found[1:])
                else Runs(),
                pipelined=pipelined,
            ),
            streaming=max((units[at].onload_peak for at in offloaded), default=0) if is_main else 0,
            # What is written to the disk is made in the CPU's memory.
            load=weights + max((unit.merged for unit in (units if context.kind == "cpu" else resident)), default=0),
            used_by_others=one.used_by_others,
            headroom=one.headroom,
            cap=one.cap,
        )
        if one.unified:
            pool[str(one)] = ledger[str(one)].used - one.used_by_others
    for place in ("cpu", "disk"):
        if away[place]:
            device = context.storage(place)
            weights = sum(unit.elsewhere for unit in away[place])
            others = device.used_by_others if place == "cpu" else 0
            made = max(units[at].merged for at in offloaded) if place == "cpu" else 0
            ledger[place] = Budget(
                weights=weights,
                load=weights + made,
                used_by_others=others,
                headroom=device.headroom,
                cap=device.cap,
            )
    if len(pool) > 1:
        for side in pool.keys() & ledger.keys():
            beside = sum(pool.values()) - pool[side]
            ledger[side] = replace(ledger[side], used_by_others=ledger[side].used_by_others + beside)
    return ledger


def several_accelerators(units: Sequence[Unit], solution: Solution, context: PlacementContext) -> bool:
    """Whether several accelerators compute whole layers, and the CPU only embeds the input beside them."""
    on_the_cpu = [units[at] for at, number in enumerate(solution.device) if number == context.cpu_number]
    several = len({number for number in solution.device if number != context.cpu_number}) > 1
    if not several or (on_the_cpu and context.beside_cpu(on_the_cpu)):
        return False
    parts = {
        (unit.block, number) for unit, number in zip(units, solution.device, strict=True) if unit.block is not None
    }
    return len(parts) == len({block for block, _ in parts})


def with_more_layers(ledger: Mapping[str, Budget], context: PlacementContext) -> PlacementContext | None:
    """Return a context in which devices that are over their budgets are taken to have more layers; `None` at the end.

    Which ones have several is known only once everything is placed.
    """
    short = {at for at, one in enumerate(context.devices) if str(one) in ledger and ledger[str(one)].free < 0}
    more = {at: context.layers.get(at, 0) + 1 for at in short if context.layers.get(at, 0) < _MOST_LAYERS}
    return replace(context, layers={**context.layers, **more}) if more else None


_MOST_LAYERS = 5
"""The most that a device can be taken to have: see `PlacementContext.layers`."""


def room_for_loading(ledger: Mapping[str, Budget], units: Sequence[Unit], tried: int) -> dict[str, int]:
    """Return the bytes to keep free on each device so that what it loads has room too; empty where it has.

    What is there while weights are loaded is less than what a device holds later, but for small caches. A device that
    is given fewer layers has less of a cache, so this is asked again, and the last answer counts on no cache at all.
    """
    short = [device for device, budget in ledger.items() if device != "disk" and budget.free < 0 and budget.loading]
    if not short:
        return {}
    if tried < _MOST_TRIES:
        return {device: budget.loading for device, budget in ledger.items() if device != "disk"}
    return dict.fromkeys(ledger, max(unit.merged for unit in units))


_MOST_TRIES = 3


def check_ledger(ledger: Mapping[str, Budget], context: PlacementContext) -> None:
    """Raise `Refused` where rules or one shared pool have broken the invariant, or the component's share."""
    over = next((device for device, budget in ledger.items() if device != "disk" and budget.free < 0), None)
    if over is not None and ledger[over].loading:
        budget = ledger[over]
        needs, left = (
            format_size(budget.load),
            format_size(max(0, budget.cap - budget.headroom - budget.used_by_others)),
        )
        message = f"`{over}` holds {needs} while weights are loaded, and has {left} after headroom"
        raise Refused(Diagnostic("DP301", message))
    if over is not None:
        # Each side of a shared pool has room by itself, and rules run something on several.
        message = f"`{over}` shares its memory with other devices, and together they have no room"
        raise Refused(Diagnostic("DP301", message))
    for one in (*context.devices, *((context.cpu,) if "cpu" in ledger else ())):
        # On a shared pool, all sides count on each.
        device = str(one)
        if one.share and device in ledger and ledger[device].used - one.used_by_others > one.own:
            raise Refused(Diagnostic("DP301", f"all sides of `{device}` together are more than the component's share"))


def reserved(plan: Plan) -> dict[str, int]:
    """Return the bytes that a plan reserves on each device: its activations too, as components may run at once."""
    # Of the disk a plan takes what it writes there; what it only reads there was there before.
    # Components are loaded one after the other, so what loading takes for a moment is none of it.
    own = {device: budget.held for device, budget in plan.ledger.items() if device != "disk"}
    return {**own, **({"disk": plan.loading.rewritten} if "disk" in plan.ledger else {})}


def reserved_bytes(plans: Iterable[Plan]) -> dict[str, int]:
    """Return the bytes that plans reserve on each device, in sum."""
    total: dict[str, int] = {}
    for plan in plans:
        for device, size in reserved(plan).items():
            total[device] = total.get(device, 0) + size
    return total
