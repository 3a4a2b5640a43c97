"""Dry runs of many hosts: one is run, and answers for every other where the same plan would do the same.

Owns what is remembered in a process. Memory changes nothing in a run that came to its end but whether it does: a plan
that ran is not run again where every device has room for the peak that was measured.
"""

from __future__ import annotations

from dataclasses import replace

from devpolicy._core.dry_run.child import ask
from devpolicy._core.dry_run.result import KEPT, DryRun
from devpolicy._core.dry_run.verb import request_of, sizes_of
from devpolicy._core.host import Host
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.plan import Plan

_MOST = 1000
_known: dict[tuple[object, ...], DryRun] = {}


def dry_run_of(plan: Plan, tree: ModelTree, host: Host) -> DryRun:
    """Return the dry run of a plan with its own workload. Raises as `dry_run` does."""
    request = request_of(plan, tree, host, sizes_of(plan))
    devices = tuple((one.type, one.id, one.name, one.capability) for one in host.accelerators)
    key = (tree.config, plan.digest, plan.loading, devices)
    run = _known.get(key)
    if run is not None and run.runs and _has_room(run, plan, host):
        uses = {device: replace(use, ledger=plan.ledger[device]) for device, use in run.devices.items()}
        return replace(run, host=host.name or run.host, devices=uses)
    run = ask(request, lambda done, of: None)
    if len(_known) >= _MOST:
        _known.clear()
    _known[key] = run
    return run


def _has_room(run: DryRun, plan: Plan, host: Host) -> bool:
    free = {f"{one.type}:{one.id}": one.free for one in host.accelerators}
    return all(
        use.peak + plan.ledger[device].used_by_others <= free.get(device, free.get(device.partition(":")[0] + ":0", 0))
        for device, use in run.devices.items()
        if device not in KEPT
    )
