"""A whole model streamed through one device, by a mode of the target: what `overflow` means where it has such modes.

Owns what each mode has on the device at once: a component, a group of layers, or a module; and what stays there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from devpolicy._core.abilities import StreamingMode
from devpolicy._core.errors import Diagnostic
from devpolicy._core.model.pipelines import LIST, Streamed, known_pipelines
from devpolicy._core.placement.apply_rules import Assignment, Offload
from devpolicy._core.placement.candidates import OVERFLOW
from devpolicy._core.placement.context import PlacementContext, avoids
from devpolicy._core.placement.divide import Division, Unit
from devpolicy._core.placement.ledger import Budget, ledger_of
from devpolicy._core.placement.search import Attempt, Problem, Solution

_LISTS = (LIST, "Sequential")
_HOLDS = {"component": "one component", "group": "one group of layers", "leaf": "one module"}
_NOT_KNOWN = Streamed((), ("safety_checker",))


@dataclass(frozen=True, slots=True)
class Streaming:
    """A model that is streamed, and what its devices hold."""

    mode: str
    division: Division
    attempt: Attempt
    ledger: Mapping[str, Budget]


def stream_model(division: Division, context: PlacementContext) -> Streaming | None:
    """Return the first of the target's modes that fits a device, `None` where none does or `overflow` allows none.

    A rule about a component holds in no mode: they stream all of them.
    """
    allowed = any(one.type == "cpu" for one in context.policy.overflow) and not avoids(context.policy, "cpu")
    if not allowed or not context.link or context.policy.rules:
        return None
    for mode in context.target.abilities.streaming:
        made = _units(mode, division.units, context)
        if made is None:
            continue
        units, away = made
        why = f"no room for everything on `{context.kind}`, and `overflow` allows `cpu`: {_HOLDS[mode.holds]} at a time"
        offloaded = {at: Offload("cpu", OVERFLOW, why) for at in away}
        for number in sorted(context.open):
            solution = Solution((number,) * len(units), offloaded, {}, {}, number)
            ledger = ledger_of(units, solution, context)
            room = all(budget.free >= 0 for budget in ledger.values())
            one = context.devices[number]
            if room and ledger[str(one)].held <= one.budget:
                problem = Problem(units, Assignment(offloaded=offloaded), context)
                attempt = Attempt(problem, {}, number, 1, Fraction(0))
                return Streaming(mode.name, replace(division, units=tuple(units)), attempt, ledger)
    return None


def parted(units: Sequence[Unit], context: PlacementContext) -> Diagnostic | None:
    """Return why a target that takes whole parts of a model cannot be given units, `None` where it can."""
    inside = next((unit for unit in units if unit.block is not None), None)
    if inside is None:
        return None
    whole = context.tree.modules[inside.block or 0].path
    message = f"`{context.target.name}` runs whole components, and a rule parts `{inside.path}` from `{whole}`"
    return Diagnostic("DP404", message, help=f"match `{whole}`")


def _units(
    mode: StreamingMode, units: Sequence[Unit], context: PlacementContext
) -> tuple[list[Unit], list[int]] | None:
    """Return the units as a mode holds them, and which of them it streams; `None` where nothing is known of it."""
    known = known_pipelines().get(context.tree.modules[0].class_name)
    how = known or _NOT_KNOWN
    if mode.holds == "component" and known is None:
        return None  # which components stay, once they ran, is a matter of the class
    stays = () if mode.holds == "group" else how.stays
    made, away = [], []
    for at, unit in enumerate(units):
        resting = unit.path in stays or (mode.holds == "component" and unit.path not in how.sequence)
        if resting or not unit.weights:
            made.append(unit)
            continue
        away.append(at)
        if mode.holds == "leaf":  # its buffers stay on the device
            made.append(unit)
            continue
        whole = unit.weights + unit.buffers
        peak = whole if mode.holds == "component" else _largest_group(unit, context)
        made.append(replace(unit, weights=whole, elsewhere=whole, buffers=0, onload_peak=peak))
    return made, away


def _largest_group(unit: Unit, context: PlacementContext) -> int:
    """Return the bytes of a component at once where its lists of layers are streamed a layer at a time.

    What is in no list is there as long as the component runs.
    """
    tree, sizing = context.tree, context.sizing

    def size(start: int, end: int) -> int:
        return sum(sizing.weights[start:end]) + sum(sizing.buffers[start:end])

    lists = [child for child in tree.children(unit.start) if tree.modules[child].class_name in _LISTS]
    listed = sum(size(child, tree.subtree_end[child]) for child in lists)
    layers = (size(layer, tree.subtree_end[layer]) for child in lists for layer in tree.children(child))
    return unit.weights + unit.buffers - listed + max(layers, default=0)
