"""Why a plan is as it is, as text for people.

Owns the text of `Plan.explain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan


def explain(plan: Plan, module: str | None) -> str:
    """Return the text of `Plan.explain`."""
    lines: list[str] = []
    if module is not None:
        for path, unit in plan.placements.below(module).items():
            where = (
                f"stored on {unit.device}, executes on {unit.runs_on}"
                if unit.device != unit.runs_on
                else f"on {unit.all_on}"
            )
            lines.append(f"{path}: {where} ({format_size(unit.bytes)})")
            lines.append(f"  decided by {unit.rule}: {unit.reason}")
            lines += [f"  {note}" for note in (plan.trace.of(path) if plan.trace else [])]
        if not lines:
            raise plan.placements.unknown(module)
    if plan.trace is not None and plan.trace.terms:
        lines.append("prefer, in order:")
        lines += [f"  {term}: {outcome}" for term, outcome in plan.trace.terms]
    if plan.granted is not None:
        lines += [f"granted: {plan.granted}", *(f"  not {one}" for one in plan.not_granted)]
    if module is None:
        lines.append("devices:")
        for device, budget in plan.ledger.items():
            lines.append(
                f"  {device}: weights {format_size(budget.weights)}, KV cache {format_size(budget.kv_cache)}, "
                f"activations {format_size(budget.activations)}, streaming {format_size(budget.streaming)}, "
                f"headroom {format_size(budget.headroom)}, of {format_size(budget.cap)}"
            )
    return "\n".join(lines)
