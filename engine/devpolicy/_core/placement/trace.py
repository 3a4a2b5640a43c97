"""How a plan came about, for people.

Owns the record that the planner writes while it works, and the text of `Plan.explain`. The planner
reads nothing from it, so that explaining can change no plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.placement.search import Problem


@dataclass(slots=True)
class Trace:
    """Which terms of `prefer` were tried, and what each rule said to each unit."""

    terms: list[tuple[str, str]] = field(default_factory=list)
    """Each term with its outcome, in order: why it was refused, or that it serves."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False)
    """What the rules left to the search, as `devpolicy._core.certify` reads it."""

    def term(self, term: str, outcome: str) -> None:
        """Record the outcome of a term."""
        self.terms.append((term, outcome))

    def note(self, module: str, text: str) -> None:
        """Record something about one unit."""
        self.notes.setdefault(module, []).append(text)

    def forget_notes(self) -> None:
        """Drop what was recorded of units: a refused term's decisions are not the plan's."""
        self.notes.clear()


def explain(plan: Plan, module: str | None) -> str:
    """Return the text of `Plan.explain`."""
    lines: list[str] = []
    if module is not None:
        for path, unit in plan.placements.below(module).items():
            where = (
                f"kept on {unit.device}, runs on {unit.runs_on}" if unit.device != unit.runs_on else f"on {unit.device}"
            )
            lines.append(f"{path}: {where} ({format_size(unit.bytes)})")
            lines.append(f"  decided by {unit.rule}: {unit.reason}")
            lines += [f"  {note}" for note in (plan.trace.notes.get(path, []) if plan.trace else [])]
        if not lines:
            raise KeyError(module)
    if plan.trace is not None and plan.trace.terms:
        lines.append("prefer, in order:")
        lines += [f"  {term}: {outcome}" for term, outcome in plan.trace.terms]
    if module is None:
        lines.append("devices:")
        for device, budget in plan.ledger.items():
            lines.append(
                f"  {device}: weights {format_size(budget.weights)}, KV cache {format_size(budget.kv_cache)}, "
                f"activations {format_size(budget.activations)}, streaming {format_size(budget.streaming)}, "
                f"headroom {format_size(budget.headroom)}, of {format_size(budget.cap)}"
            )
    return "\n".join(lines)
