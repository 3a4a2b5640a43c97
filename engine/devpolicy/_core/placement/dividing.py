"""What is to be said of a model that is divided over devices, or of which a part is kept elsewhere.

Owns the warnings about maps that are not known to run, which a dry run proves or refutes, and the notes about rules
that free nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from devpolicy._core.errors import Diagnostic
from devpolicy._core.model.architectures import measured
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division, Unit
from devpolicy._core.placement.search import Solution

_TRY = "try it, before anything is loaded: `devpolicy dry-run`"


def findings_of_division(
    tree: ModelTree, division: Division, solution: Solution, context: PlacementContext
) -> Iterator[Diagnostic]:
    """Yield warnings of a map that is not known to run (DP423)."""
    if not context.target.abilities.maps:
        return
    count = len(set(solution.device))
    if count > 1:
        yield from _unproved(tree, division.units, count)
        yield from _parted(division, solution)


def _unproved(tree: ModelTree, units: Sequence[Unit], count: int) -> Iterator[Diagnostic]:
    seen = measured(tree.loading.architecture or tree.modules[0].class_name)
    if seen is not None and seen.verdict != "not-built":
        return  # it ran, or what failed is told elsewhere
    name = tree.modules[0].class_name
    own = next((unit for unit in units if unit.direct_tensors_only and unit.block is None and unit.weights), None)
    if own is None:
        return
    where = f"`{own.path}`" if own.path else "the model itself"
    why = f"{where} has parameters of its own beside its children"
    message = f"`{name}` is divided over {count} devices, and may not run so: {why}"
    yield Diagnostic("DP423", message, help=_TRY, severity="warning")


def _parted(division: Division, solution: Solution) -> Iterator[Diagnostic]:
    for group in division.meetings:
        if len({solution.device[at] for at in group.units}) > 1:
            paths = " and ".join(f"`{division.units[at].path}`" for at in group.units[:2])
            message = f"the outputs of {paths} meet, and rules run them on different devices"
            yield Diagnostic("DP423", message, help=_TRY, severity="warning")


def idle_offloads(units: Sequence[Unit], solution: Solution, context: PlacementContext) -> Iterator[tuple[str, str]]:
    """Yield a note for each unit of a rule that frees nothing: its device needs as much room for what is brought in."""
    if len(set(solution.device)) > 1 or not context.link:
        return
    for rule in context.policy.rules:
        mine = [at for at, offload in solution.offloaded.items() if rule.offload and offload.rule == rule.name]
        freed = sum(units[at].weights for at in mine)
        others = max((units[at].onload_peak for at in solution.offloaded if at not in mine), default=0)
        brought = max((units[at].onload_peak for at in mine), default=0)
        if mine and freed <= brought - min(others, brought):
            for at in mine:
                yield units[at].path, f"frees nothing on `{context.devices[solution.main]}`: it is brought in at once"
