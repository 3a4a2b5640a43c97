"""The verdicts on models in quantizations on hosts, as a report shows them.

Owns what a cell of the matrix holds. Each verdict is that of `fit`, with the plan's picture and the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.planning.fit import Fit, fit
from devpolicy._core.sizes import format_size
from devpolicy._core.views.names import device_range
from devpolicy._core.views.picture import share
from devpolicy._core.views.plan_parts import framed, reasons

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import ResolvedPolicy
    from devpolicy._core.model.tree import ModelTree

FITS, MOVED, CPU, REFUSED = "fits", "moved", "cpu", "refused"
"""A cell's verdicts: all weights are on the accelerators that execute them, a part is kept elsewhere, the CPU executes
the model, or there is no plan."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One verdict, in words and figures for people."""

    model: str
    quantization: str
    host: str
    verdict: str
    full: int
    """Percent of the fullest device."""
    context: int | None
    """The most tokens of one sequence; `None` where nothing fits."""
    facts: tuple[tuple[str, str], ...]
    """Labelled values."""
    reasons: tuple[str, ...]
    picture: str = ""
    """The SVG, its class rules left to the page."""


def matrix(
    policies: Sequence[tuple[Host, ResolvedPolicy]],
    models: Sequence[ModelTree],
    schemes: Sequence[str],
    *,
    target: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Cell]:
    """Return the cells of each model, in each scheme, on each host with the policy resolved for it, in that order.

    A model that is quantised already is planned once: no scheme changes it.
    """
    cells: list[Cell] = []
    of_each = [schemes if tree.quantization is None else schemes[:1] for tree in models]
    whole = len(policies) * sum(map(len, of_each))
    for tree, asked in zip(models, of_each, strict=True):
        for scheme in asked:
            for host, policy in policies:
                found = fit(policy, tree, host, quantization=scheme, target=target, batches=(1,))
                cells.append(_cell(found, host))
                progress(len(cells), whole)
    return cells


def _cell(found: Fit, host: Host) -> Cell:
    name = host.name or "this machine"
    if found.plan is None:
        return Cell(found.model, found.stored or found.quantization, name, REFUSED, 0, None, (), _refusal(found))
    plan = found.plan
    full = max(share(budget) for device, budget in plan.ledger.items() if device != "disk")
    return Cell(
        found.model,
        found.stored or found.quantization,
        name,
        _verdict(found),
        round(100 * full),
        dict(found.contexts).get(1),
        tuple(_facts(found)),
        tuple(reasons(plan)),
        framed(plan, host),
    )


def _verdict(found: Fit) -> str:
    if all(str(device) == "cpu" for device in found.devices):
        return CPU
    return MOVED if found.kept else FITS


def _facts(found: Fit) -> list[tuple[str, str]]:
    kept = ", ".join(f"{format_size(size)} on {place}" for place, size in found.kept.items())
    longest = dict(found.contexts).get(1)
    predicted = found.prediction
    first = predicted.first_token_ns if predicted else None
    stored = found.stored if found.held == found.stored else f"{found.stored}, {found.held} here"
    return [
        *([("quantised already", stored)] if found.stored and stored else []),
        ("executes on", device_range(found.devices)),
        *([("kept elsewhere", kept)] if kept else []),
        ("left", f"{format_size(found.left)} on the devices that execute it"),
        ("longest context", f"{longest:,} tokens of one sequence" if longest else "none"),
        *([("predicted", f"{as_ms(predicted.ns)} for each token, not measured")] if predicted else []),
        *([("", f"{as_ms(first)} to the first token")] if first is not None else []),
    ]


def _refusal(found: Fit) -> tuple[str, ...]:
    refused = found.refused
    if refused is None:
        return ()
    notes = [note for note in refused.notes if ": the host has no `" not in note]
    code = f"{refused.code}: " if refused.code else ""
    return (f"{code}{refused.message}", *notes, *([f"help: {refused.help}"] if refused.help else []))
