"""What a plan says of a model that is placed, beside its placements: warnings, and notes about rules that free nothing.

Owns the warnings of a model that is not all known or counted, and of a division that is not known to run, which a dry
run proves or refutes. What refuses a plan is `refusals`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.architectures import measured
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.colocate import holds_own_tensors
from devpolicy._core.placement.context import PlacementContext
from devpolicy._core.placement.divide import Division, Unit
from devpolicy._core.placement.meeting import meetings
from devpolicy._core.placement.search import Solution

_TRY = "try it, before anything is loaded: `devpolicy dry-run`"


def findings_of_model(tree: ModelTree, policy: ResolvedPolicy, kind: str) -> Iterator[Diagnostic]:
    """Yield what is to be said of a model: that it is not all known, not all stored, or not all counted.

    `kind` is the type of the devices that it is planned on.
    """
    if tree.incomplete_reason is not None:
        message = f"the structure of `{tree.name}` is not known in full"
        notes, hint = [tree.incomplete_reason], ""
        if tree.format == "safetensors" and all(rule.kv_cache is None for rule in policy.memory):
            counted = "as those of attention, by its configuration" if tree.kv_cache else "as nothing"
            notes += [f"its KV cache, or states that its layers keep in place of one, are counted {counted}"]
            hint = f'measure them, and set them aside: `memory.{kind}.reserve.kv_cache = "2 GiB"`'
        yield Diagnostic("DP407", message, notes=tuple(notes), help=hint, severity="warning")
    for note in tree.loading.notes:
        yield Diagnostic("DP415", note, severity="warning")
    if tree.loading.cache is not None and tree.kv_cache:
        message = f"the KV cache of `{tree.name}` is counted whole, and its generation settings ask for another"
        hint = f"set its size aside where it is (`memory.cpu.reserve`), or take `{tree.loading.cache}` out of them"
        note = f'`generation_config.json`: `cache_implementation` is `"{tree.loading.cache}"`'
        yield Diagnostic("DP416", message, notes=(note,), help=hint, severity="warning")
    computed = tree.format in ("onnx", "diffusers") or "model_type" in dict(tree.metadata)
    if not computed or any(rule.activations is not None for rule in policy.memory):
        return
    recurrent = any(cache.window == 1 and cache.dtype == "float32" for cache in tree.kv_cache)
    if recurrent or not tree.activation_elements_per_token:
        name = f"the activations of `{tree.name}` are"
        message = f"{name} counted as those of attention, and its recurrent layers need more"
        if not tree.activation_elements_per_token:
            message = f"{name} not known, and counted as nothing"
        hint = f'measure them, and set them aside: `memory.{kind}.reserve.activations = "2 GiB"`'
        yield Diagnostic("DP414", message, help=hint, severity="warning")


def findings_of_division(division: Division, solution: Solution, context: PlacementContext) -> Iterator[Diagnostic]:
    """Yield warnings where a model is divided over devices, or a part of it is kept elsewhere."""
    tree, several = context.tree, len(set(solution.device)) > 1
    if not several and not solution.offloaded:
        return
    places = {*solution.device, *(one.place for one in solution.offloaded.values())}
    # What the sweep saw is a fact of the model tree, which its reader takes from the table.
    verdict, _, reason = dict(tree.metadata).get("divided", "").partition(": ")
    if verdict == "wrong":  # a verdict by which it stays whole is `refuted`'s
        message = f"`{tree.modules[0].class_name}` was tried in parts, and failed: {reason}"
        yield Diagnostic("DP419", message, help="`devpolicy dry-run` says what this plan does", severity="warning")
    elif len(places) > 1 and not tree.no_split and (tree.loading.architecture or holds_own_tensors(division.units)):
        message = f"`{tree.modules[0].class_name}` does not say what stays whole, and is divided"
        hint = 'run its code by the plan, at no cost: `devpolicy dry-run`\nor use one device: `split = "never"`'
        yield Diagnostic("DP422", message, help=hint, severity="warning")
    if several and context.target.abilities.maps:
        yield from _unproved(division, solution, tree)


def _unproved(division: Division, solution: Solution, tree: ModelTree) -> Iterator[Diagnostic]:
    """Yield warnings of a map over several devices that is not known to run (DP423)."""
    name, units = tree.modules[0].class_name, division.units
    seen = measured(tree.loading.architecture or name)
    own = next((unit for unit in units if unit.direct_tensors_only and unit.block is None and unit.weights), None)
    # Where it was measured, it ran, or what failed is told elsewhere.
    if own is not None and (seen is None or seen.verdict == "not-built"):
        where = f"`{own.path}`" if own.path else "the model itself"
        why = f"{where} has parameters of its own beside its children"
        message = f"`{name}` is divided over {len(set(solution.device))} devices, and may not run so: {why}"
        yield Diagnostic("DP423", message, help=_TRY, severity="warning")
    for group in meetings(tree, division):
        if len({solution.device[at] for at in group.units}) > 1:
            paths = " and ".join(f"`{units[at].path}`" for at in group.units[:2])
            message = f"the outputs of {paths} meet, and rules run them on different devices"
            yield Diagnostic("DP423", message, help=_TRY, severity="warning")


def idle_offloads(
    units: Sequence[Unit], solution: Solution, context: PlacementContext
) -> tuple[list[tuple[str, str]], list[Diagnostic]]:
    """Return a note for each unit of a rule that frees nothing, and a warning for each such rule.

    Its device needs as much room for what is brought in. Of several devices it is that of the units on both sides.
    """
    notes: list[tuple[str, str]] = []
    warnings: list[Diagnostic] = []
    device, several = context.devices[solution.main], len(set(solution.device)) > 1
    for rule in context.policy.rules if context.link and solution.offloaded else ():
        mine = [at for at, offload in solution.offloaded.items() if rule.offload and offload.rule == rule.name]
        freed = sum(units[at].weights for at in mine)
        others = max((units[at].onload_peak for at in solution.offloaded if at not in mine), default=0)
        onloaded = max((units[at].onload_peak for at in mine), default=0)
        idle = mine and freed <= onloaded - min(others, onloaded)
        if idle and (not several or _beside(mine, solution) <= {solution.main}):
            notes += [(units[at].path, f"frees nothing on `{device}`: it is brought in at once") for at in mine]
            message = f"rule `{rule.name}` frees nothing on `{device}`: what it offloads is brought in at once"
            hint = "leave the rule out, or offload more modules: the device keeps room for the largest of them"
            warnings.append(Diagnostic("DP425", message, rule.place, help=hint, severity="warning"))
    return notes, warnings


def _beside(mine: Sequence[int], solution: Solution) -> set[int]:
    """Return the devices of the nearest units before and behind some that stay where they run."""
    count = len(solution.device)
    ways = [range(at, end, step) for at in mine for end, step in ((-1, -1), (count, 1))]
    nearest = (next((other for other in way if other not in solution.offloaded), None) for way in ways)
    return {solution.device[at] for at in nearest if at is not None}
