"""Overflow of a target that computes on the CPU: the first layers run there, as few as let the rest fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from devpolicy._core.placement.apply_rules import Offload, is_elsewhere, record_offload
from devpolicy._core.placement.computing import layer_of, leads
from devpolicy._core.placement.divide import Cluster
from devpolicy._core.placement.scatter import fit_in_any_order, place_in_any_order
from devpolicy._core.placement.search import Attempt, Problem


def spill_first_layers(problem: Problem, name: str) -> Attempt | None:
    """Return an attempt with the first layers on the CPU, `None` where nothing lets the rest fit.

    The cost of a layer there does not depend on which one it is, so that fewest are best. `name` is what the plan says
    decided it.
    """
    context = problem.context
    if not any(one.type == "cpu" for one in context.policy.overflow) or not is_elsewhere("cpu", context):
        return None
    layers = _layers(problem)
    reason = f"no room on `{context.kind}`, and `overflow` allows `cpu`: the first layers run there"
    offload = Offload("cpu", name, reason)
    low, high, found = 1, len(layers), 0
    while low <= high:  # more layers away are never harder for the accelerators; the CPU's own room ends the search
        middle = (low + high) // 2
        if fit_in_any_order(_without(problem, layers[:middle], offload)) is None:
            low = middle + 1
        else:
            found, high = middle, middle - 1
    return place_in_any_order(_without(problem, layers[:found], offload)) if found else None


def _layers(problem: Problem) -> list[Cluster]:
    """Return the clusters of the layers that may still go, in execution order."""
    found: dict[int, Cluster] = {}
    for cluster in problem.assignment.clusters:
        at = next((at for at in (layer_of(problem.units[at].path) for at in cluster) if at and leads(at[1])), None)
        if at is not None:
            found[at[0]] = cluster
    return [found[layer] for layer in sorted(found)]


def _without(problem: Problem, gone: list[Cluster], offload: Offload) -> Problem:
    left = {at for cluster in gone for at in cluster}
    assignment = problem.assignment
    kept = tuple(cluster for cluster in assignment.clusters if cluster[0] not in left)
    offloads: Mapping[int, Offload] = dict.fromkeys(sorted(left), offload)
    remaining = replace(assignment, clusters=kept)
    return replace(problem, assignment=record_offload(remaining, problem.units, offloads, problem.context))
