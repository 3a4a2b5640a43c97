"""`--what-if KEY=VALUE`: the same plan on a host, or for a workload, with something changed.

Owns what may be changed and the comparison with the plan as it is. What a change makes of a host is the matter of
`devpolicy._core.review.hosts`, where the tests of policies vary hosts in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.errors import DevPolicyError, Diagnostic, Unsatisfiable
from devpolicy._core.language.expectations import VARY, Dimension
from devpolicy._core.review.hosts import Variant, varied
from devpolicy._core.sizes import format_size
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import Cursor
from devpolicy._core.toml.writer import quote, write_key

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan

WORKLOAD = ("context", "batch", "beams", "dtype", "kv_dtype", "new_tokens")


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes, as written and as read."""

    written: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    overrides: tuple[str, ...]
    """What `--set` would say of the workload."""

    def host(self, host: Host) -> Host:
        """Return the changed host. Raises `DevPolicyError` where the host has nothing of the kind."""
        findings: list[Diagnostic] = []
        made = varied([Variant("the host", host)], self.dimensions, findings)
        if findings:
            raise DevPolicyError(findings)
        return made[0].host if made else host


def read_changes(given: Sequence[str]) -> Changes | None:
    """Read the values of `--what-if`, `None` where there are none. Raises `DevPolicyError` for what cannot be read."""
    if not given:
        return None
    lines, overrides = [], []
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            hint = "write what is changed and its value: `cuda.count=3`, `cuda:0.free=20 GiB`, `context=8192`"
            raise DevPolicyError([Diagnostic("", f"`{text}` changes nothing", help=hint)])
        if key in WORKLOAD:
            overrides.append(f"workload.{key}={value}")
        else:
            lines.append(f"{write_key(key)} = {value if value.isdecimal() else quote(value)}")
    findings: list[Diagnostic] = []
    document = Document("\n".join(lines), "--what-if", DevPolicyError)
    dimensions = VARY.read(document.data, Cursor(document, (), findings)) if lines else ()
    if findings or dimensions is None:
        raise DevPolicyError(findings)
    return Changes(tuple(given), dimensions, tuple(overrides))


def summary(plans: Mapping[str | None, Plan] | Unsatisfiable) -> dict[str, Any]:
    """Return what a plan comes to, or why there is none, for a comparison."""
    if isinstance(plans, Unsatisfiable):
        return {"refused": plans.code, "because": plans.diagnostics[0].message if plans.diagnostics else ""}
    units = [unit for plan in plans.values() for unit in plan.placements.values()]
    predictions = [plan.prediction for plan in plans.values() if plan.prediction]
    return {
        "devices": sorted({str(unit.runs_on) for unit in units}),
        "kept_elsewhere": sum(unit.bytes for unit in units if unit.device != unit.runs_on),
        "predicted_ns_per_token": sum(one.ns for one in predictions) if predictions else None,
    }


def comparison(changes: Changes, as_it_is: Mapping[str, Any], then: Mapping[str, Any]) -> list[Line]:
    """Return the lines below a plan that was made with changes."""
    return [
        [("what if  ", "strong"), (", ".join(changes.written), "")],
        [("as it is ", "strong"), (_told(as_it_is), "dim")],
        [("then     ", "strong"), (_told(then), "")],
    ]


def _told(of: Mapping[str, Any]) -> str:
    if "refused" in of:
        return f"refused ({of['refused']}): {of['because']}"
    devices, kept = of["devices"], of["kept_elsewhere"]
    parts = [devices[0] if len(devices) == 1 else f"{len(devices)} devices"]
    parts.append(f"{format_size(kept)} kept elsewhere" if kept else "nothing kept elsewhere")
    if of["predicted_ns_per_token"] is not None:
        parts.append(f"{as_ms(of['predicted_ns_per_token'])} for each token, as predicted")
    return ", ".join(parts)
