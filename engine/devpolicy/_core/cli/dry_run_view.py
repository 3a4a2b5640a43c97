"""A dry run for people: what was called, and what each device held beside its ledger.

Owns the table. What contradicts the plan comes behind it, as findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.cli.table import facts, table
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.dry_run import DryRun
    from devpolicy._core.errors import Diagnostic

_HEAD = ("device", "loaded", "while loading", "while running", "ledger")


def view(run: DryRun, component: str | None, findings: Sequence[Diagnostic], width: int) -> list[Line]:
    """Return the lines of one dry run."""
    name = run.model if component is None else f"{component} ({run.model})"
    pairs = [
        ("model", f"{name} on {run.host}"),
        ("call", run.call or "none: it was not loaded"),
        ("runs", _verdict(run)),
    ]
    pairs += [("note", note) for note in run.notes]
    rows = [
        (
            device,
            format_size(use.loaded),
            *(format_size(peak) if peak else "-" for peak in (use.load_peak, use.run_peak)),
            format_size(use.planned),
        )
        for device, use in run.devices.items()
    ]
    lines: list[Line] = [*facts(pairs, width=width), "", *table(_HEAD, rows, width=width, right=(1, 2, 3, 4))]
    if findings:
        lines += ["", *painted(rendered(findings))]
    return lines


def _verdict(run: DryRun) -> str:
    if not run.runs:
        return "no"
    return "yes, and a device holds more than its ledger" if run.over else "yes, within the ledger"
