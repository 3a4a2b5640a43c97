"""A plan for people: what was planned, where everything is, and a picture of each device.

Owns the human form of a plan. All figures are the plan's; nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from devpolicy.cli.fold import fold
from devpolicy.cli.picture import bars, figures
from devpolicy.cli.report import painted, rendered
from devpolicy.cli.table import facts, table
from devpolicy.placement.prediction import as_ms
from devpolicy.placement.sizing import size_model
from devpolicy.sizes import format_size

if TYPE_CHECKING:
    from devpolicy.cli.screen import Line, Screen
    from devpolicy.host import Host
    from devpolicy.language.policy import Policy
    from devpolicy.model import ModelTree
    from devpolicy.placement.plan import Placement, Plan
    from devpolicy.placement.prediction import Prediction


def view(plan: Plan, policy: Policy, tree: ModelTree, host: Host, screen: Screen) -> list[Line]:
    """Return a plan's lines, composed for a screen."""
    lines = facts(_header(plan, policy, tree, host), width=screen.width)
    lines += ["", *placements(plan.placements, width=screen.width)]
    lines += ["", *bars(plan.ledger, _device_names(host), screen), "", *figures(plan.ledger, width=screen.width)]
    if "disk" in plan.ledger:
        lines += ["", *_disk(plan)]
    if plan.prediction:
        lines += ["", *facts(_predicted(plan.prediction), width=screen.width)]
    if plan.warnings:
        lines += ["", *painted(rendered(plan.warnings))]
    return [*lines, "", [("digest  ", "strong"), (plan.digest, "dim")]]


def _header(plan: Plan, policy: Policy, tree: ModelTree, host: Host) -> list[tuple[str, str]]:
    sizing = size_model(tree, policy.workload)
    loaded = sum(sizing.weights) + sum(sizing.buffers)
    pairs = [
        ("component", plan.component),
        ("policy", policy.source),
        ("model", f"{tree.name}: {count(tree.parameters)} parameters, {format_size(loaded)} in {sizing.dtype}"),
        ("host", host_line(host)),
        ("work", f"{sizing.context:,} tokens of context, batch {policy.workload.batch}, for {plan.target}"),
        ("unused", _unused(plan, host)),
    ]
    return [(name, text) for name, text in pairs if text]


def _predicted(prediction: Prediction) -> list[tuple[str, str]]:
    """The time of one token, and what the prediction goes by. Nothing was measured, and it says so."""
    parts = [f"{as_ms(prediction.reading_ns)} reading"]
    if prediction.streaming_ns:
        parts.append(f"{as_ms(prediction.streaming_ns)} bringing weights in")
    if prediction.crossings:
        parts.append(f"{as_ms(prediction.crossing_ns)} in {prediction.crossings} crossings")
    constants = {
        name: f"{value:,}" if name in ("crossing_ns", "new_tokens") else f"{value / 1e9:.0f} GB/s"
        for name, value in prediction.assumes
    }
    return [
        ("predicted", f"{as_ms(prediction.ns)} for each token: {', '.join(parts)}; nothing was measured"),
        ("assumed", ", ".join(f"{name} {text}" for name, text in constants.items())),
    ]


def _unused(plan: Plan, host: Host) -> str:
    """The accelerators that the plan leaves alone, with their faults."""
    used = {str(unit.runs_on) for unit in plan.placements.values()} | {
        str(unit.device) for unit in plan.placements.values()
    }
    names = []
    for one in host.accelerators:
        if f"{one.type}:{one.id}" not in used and not (one.type == "mps" and "mps" in used):
            names.append(f"{one.type}:{one.id}" + (f" ({one.fault})" if one.fault else ""))
    return ", ".join(names)


def host_line(host: Host) -> str:
    """Return a host in a line: its name and description, or what it has."""
    return f"{host.name or 'this machine'}: {host.description or devices(host)}"


def devices(host: Host) -> str:
    """Return a host's accelerators in a few words: `4 x NVIDIA A100-SXM4-80GB (cuda)`."""
    kinds = Counter((one.name or one.type, one.type) for one in host.accelerators)
    return ", ".join(f"{number} x {name} ({kind})" for (name, kind), number in kinds.items()) or "no accelerator"


def _device_names(host: Host) -> dict[str, str]:
    names = {f"{one.type}:{one.id}": one.name or "" for one in host.accelerators}
    return {**names, "mps": names.get("mps:0", ""), "cpu": f"{format_size(host.memory)} of RAM"}


def count(number: int) -> str:
    """Return a number of parameters as people say it: `70.6 B`, `125 M`."""
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def placements(units: Mapping[str, Placement], *, width: int) -> list[Line]:
    """Return the units of a plan as a table, those that differ only in numbers in one row."""
    rows = fold((path, (str(unit.device), str(unit.runs_on), unit.rule)) for path, unit in units.items())
    apart = any(row.key[0] != row.key[1] for row in rows)
    head = ["module", "units", "kept on" if apart else "device", *(["runs on"] if apart else []), "size", "decided by"]
    body = [
        [
            row.pattern or "(the whole model)",
            str(len(row.paths)),
            *row.key[: 2 if apart else 1],
            format_size(sum(units[path].bytes for path in row.paths)),
            row.key[2],
        ]
        for row in rows
    ]
    size = len(head) - 2
    return table(
        head, body, width=width, right=(1, size), styles={2: "device", 3: "device" if apart else "", size + 1: "dim"}
    )


def _disk(plan: Plan) -> list[Line]:
    kept, rewritten = plan.ledger["disk"].weights, plan.load.rewritten
    if not rewritten:
        return [f"disk: {format_size(kept)} are read where the checkpoint has them, nothing is written"]
    folder = f" to {plan.load.offload_folder}" if plan.load.offload_folder else ""
    return [f"disk: {format_size(rewritten)} of {format_size(kept)} are rewritten{folder} when the model is loaded"]
