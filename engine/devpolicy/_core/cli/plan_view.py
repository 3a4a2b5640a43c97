"""A plan for people: its inputs, the placement of modules, and the memory of each device.

Owns the human form of a plan. All figures are the plan's; nothing is decided here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from devpolicy._core.abilities import target_of
from devpolicy._core.cli.memory_bars import PARTS, bars, figures
from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.cli.table import facts, table
from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.memory.sizing import compute_dtype, context_of, sequences_of
from devpolicy._core.placement.loading import AS_STORED
from devpolicy._core.sizes import format_size
from devpolicy._core.toml.writer import write_key
from devpolicy._core.views.collapse_ranges import collapse_ranges
from devpolicy._core.views.names import count, device_names, device_range, host_line
from devpolicy._core.views.parts import sizes_of

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line, Output
    from devpolicy._core.cost.prediction import Prediction
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.plan import Placement, Plan


def view(plan: Plan, policy: Policy, tree: ModelTree | None, host: Host, out: Output) -> list[Line]:
    """Return a plan's lines, composed for a screen. Without a tree only the component's bytes are known."""
    about = [("policy", policy.source), ("host", host_line(host)), ("unused", unused([plan], host))]
    what = component_facts(plan, policy, tree)
    # The component and its model, then where they are.
    first = [pair for pair in what if pair[0] == "component"]
    rest = [pair for pair in what if pair[0] != "component"]
    pairs = [*first, about[0], *rest[:1], about[1], *rest[1:], *(about[2:] if about[2][1] else [])]
    lines = facts(pairs, width=out.width)
    lines += ["", *placements(plan, tree, width=out.width)]
    sizes = {device: sizes_of(budget) for device, budget in plan.ledger.items()}
    lines += ["", *bars(sizes, PARTS, device_names(host), out), "", *figures(plan.ledger, width=out.width)]
    return [*lines, *annotation_lines(plan, width=out.width), "", *digest(plan)]


def component_facts(plan: Plan, policy: Policy, tree: ModelTree | None) -> list[tuple[str, str]]:
    """Return which component it is, its model, and the work that its memory is computed from."""
    pairs = [("component", plan.component)] if plan.component is not None else []
    if tree is None:
        size = sum(unit.bytes for unit in plan.placements.values())
        return [*pairs, ("needs", f"{format_size(size)} of one device, for {plan.target}")]
    workload = policy.for_component(plan.component).workload
    if plan.loading.context:
        workload = replace(workload, context=plan.loading.context)
    loaded = sum(unit.bytes for unit in plan.placements.values())
    scheme = plan.loading.scheme
    held = f"in {compute_dtype(tree, workload)}" if scheme == "none" else f"as {scheme}"
    support = target_of(plan.target).abilities.schemes.get(scheme)
    if support is not None and support.whole_beside and tree.quantization is None:
        away = {str(unit.device) for unit in plan.placements.values() if unit.device != unit.runs_on}
        held += f", unquantised on {' and '.join(sorted(away))}" if away else ""
    each = sequences_of(tree, workload) // workload.batch
    beams = f" of {each} beams" if each > 1 else ""
    if tree.format in AS_STORED:
        held = "as stored"
    context = f"{context_of(tree, workload):,} tokens of context"
    return [
        *pairs,
        ("model", f"{tree.name}: {count(tree.parameters)} parameters, {format_size(loaded)} {held}"),
        ("work", f"{context}, batch {workload.batch}{beams}, for {plan.target}"),
        *([("assumed", f"{' and '.join(plan.loading.assumed)} installed there")] if plan.loading.assumed else []),
    ]


def annotation_lines(plan: Plan, *, width: int) -> list[Line]:
    """Return the lines about the disk, the prediction and the warnings of a plan."""
    lines = granted_lines(plan, width=width)
    lines += ["", *textwrap.wrap(_disk(plan), width)] if "disk" in plan.ledger else []
    if plan.prediction:
        lines += ["", *facts(_predicted(plan.prediction), width=width)]
    return [*lines, "", *painted(rendered(plan.warnings))] if plan.warnings else lines


def granted_lines(plan: Plan, *, width: int) -> list[Line]:
    """Return what was granted of the wishes of a policy, and why each earlier choice did not do."""
    if plan.granted is None:
        return []
    pairs = [("granted", str(plan.granted)), *(("", f"not {one}") for one in plan.not_granted)]
    return ["", *facts(pairs, width=width)]


def digest(plan: Plan) -> list[Line]:
    """Return a plan's digest as a labelled value."""
    return [[("digest  ", "strong"), (plan.digest, "dim")]]


_COUNTS = ("crossing_ns", "call_ns", "onload_ns", "new_tokens", "prompt")


def _predicted(prediction: Prediction) -> list[tuple[str, str]]:
    """The time of one token and of the first one, and what the prediction goes by: measured speeds, or constants."""
    parts = [f"{as_ms(prediction.reading_ns)} reading"]
    if prediction.streaming_ns:
        parts.append(f"{as_ms(prediction.streaming_ns)} bringing weights in")
    if prediction.crossings:
        parts.append(f"{as_ms(prediction.crossing_ns)} in {prediction.crossings} crossings")
    constants = {
        name: f"{value:,}" if name in _COUNTS else f"{value / 1e9:.0f} GB/s" for name, value in prediction.assumes
    }
    if prediction.calling_ns:
        parts.append(f"{as_ms(prediction.calling_ns)} calling modules")
    measured = f"speeds measured on {prediction.measured}" if prediction.measured else "nothing was measured"
    to_first = prediction.first_token_ns
    prompt = dict(prediction.assumes).get("prompt", 0)
    first = [] if to_first is None else [("first token", f"{as_ms(to_first)}, for a prompt of {prompt:,} tokens")]
    once = "each token" if dict(prediction.assumes).get("new_tokens") else "one pass, without an answer"
    return [
        ("predicted", f"{as_ms(prediction.ns)} for {once}: {', '.join(parts)}; {measured}"),
        *first,
        ("assumed", ", ".join(f"{name} {text}" for name, text in constants.items())),
    ]


def _places(unit: Placement) -> tuple[str, str]:
    """Return where a unit is stored and where it runs; of a group all devices."""
    group = device_range(map(str, unit.group))
    return (group, group) if group else (str(unit.device), str(unit.runs_on))


def unused(plans: Iterable[Plan], host: Host) -> str:
    """Return the accelerators that plans leave alone, with their faults."""
    units = [unit for plan in plans for unit in plan.placements.values()]
    used = {str(one) for unit in units for one in (unit.device, unit.runs_on, *unit.group)}
    names = []
    for one in host.accelerators:
        if f"{one.type}:{one.id}" not in used and not (one.type == "mps" and "mps" in used):
            names.append(f"{one.type}:{one.id}" + (f" ({one.fault})" if one.fault else ""))
    return ", ".join(names)


def placements(plan: Plan, tree: ModelTree | None, *, width: int) -> list[Line]:
    """Return the units of a plan as a table, those that differ only in numbers in one row.

    A rule of the component's own table is named as it is there: `own offload.lm_head`.
    """
    units, whole = plan.placements, "(all of it)" if tree is None else "(the whole model)"
    own = f"component.{write_key(plan.component)}." if plan.component is not None else "\0"
    rows = collapse_ranges((path, (*_places(unit), unit.rule)) for path, unit in units.items())
    apart = any(row.key[0] != row.key[1] for row in rows)
    head = [
        "module",
        "units",
        "stored on" if apart else "device",
        *(["executes on"] if apart else []),
        "size",
        "decided by",
    ]
    body = [
        [
            row.pattern or whole,
            str(len(row.paths)),
            *row.key[: 2 if apart else 1],
            format_size(sum(units[path].bytes for path in row.paths)),
            f"own {row.key[2].removeprefix(own)}" if row.key[2].startswith(own) else row.key[2],
        ]
        for row in rows
    ]
    size = len(head) - 2
    return table(
        head, body, width=width, right=(1, size), styles={2: "device", 3: "device" if apart else "", size + 1: "dim"}
    )


def _disk(plan: Plan) -> str:
    kept, rewritten = plan.ledger["disk"].weights, plan.loading.rewritten
    if not rewritten:
        return f"disk: {format_size(kept)} are read where the checkpoint has them, nothing is written"
    folder = f" to {plan.loading.offload_folder}" if plan.loading.offload_folder else ""
    return f"disk: {format_size(rewritten)} of {format_size(kept)} are rewritten{folder} when the model is loaded"
