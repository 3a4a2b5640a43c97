"""Comparing a plan with the one that was locked.

Owns what `--locked FILE` reads (one plan's JSON, several components', or only a digest) and how it reports changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.files import read_file
from devpolicy._core.placement.plan import Plan
from devpolicy._core.placement.saved import PlanError
from devpolicy._core.review.plan_diff import Where, format_place, other_changes, plan_diff
from devpolicy._core.views.collapse_ranges import collapse_ranges

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_NOTES = 20
LARGEST_LOCK = 64 << 20
"""The largest lock file, in bytes: the plan of the catalogue's largest model takes less than a tenth of it."""

Plans = Mapping[str | None, Plan]
"""Plans by component; a single plan has the key `None`."""


class LockedPlanError(DevPolicyError):
    """The plan is not the locked one."""

    exit_status: ClassVar[int] = 1

    def __init__(self, findings: Any, moved: list[dict[str, Any]] | None = None) -> None:
        super().__init__(findings)
        self.more = {"moved": moved or []}


def compare(path: str, plans: Plans) -> None:
    """Raise `LockedPlanError` with what moved if `plans` differ from the file's, `PlanError` if it is no lock."""
    locked = read(path)
    if locked.keys() != plans.keys():
        listed = ", ".join(f"`{name}`" if name else "one plan" for name in locked)
        now = ", ".join(f"`{name}`" if name else "one plan" for name in plans)
        raise LockedPlanError(Diagnostic("DP505", f"`{path}` holds {listed}, and planned is {now}"))
    findings: list[Diagnostic] = []
    moved: list[dict[str, Any]] = []
    for name, plan in plans.items():
        before = locked[name]
        digest = before if isinstance(before, str) else before.digest
        if digest != plan.digest:
            changes = plan_diff(before, plan) if isinstance(before, Plan) else {}
            moved += [
                {"component": name, "module": at, "from": _for_machines(old), "to": _for_machines(new)}
                for at, (old, new) in changes.items()
            ]
            findings.append(_finding(path, name, before, plan, changes))
    if findings:
        raise LockedPlanError(findings, moved)


def read(path: str) -> dict[str | None, Plan | str]:
    """Return the plans or digests that a lock file holds. Raises `PlanError`."""
    content = read_file(path, PlanError, most=LARGEST_LOCK, hint="write it with `--format json --output FILE`")
    if len(content) > LARGEST_LOCK:
        raise PlanError(Diagnostic("DP104", f"`{path}` is no lock: it is larger than {LARGEST_LOCK >> 20} MiB"))
    text = content.decode("utf-8-sig", "replace").strip()
    if _DIGEST.fullmatch(text):
        return {None: text}
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise PlanError("it holds neither a plan nor a digest")
        if "errors" in data:
            raise PlanError("it holds the errors of a plan that failed: `--output FILE` writes only a plan")
        components = data.get("components")
        if isinstance(components, dict):
            return {name: Plan.from_dict(plan) for name, plan in components.items()}
        return {None: Plan.from_dict(data)}
    except (ValueError, RecursionError) as broken:
        why = str(broken) if isinstance(broken, PlanError) else "it holds neither a plan nor a digest"
        hint = "write one with `--format json --output FILE`"
        raise PlanError(Diagnostic("DP104", f"`{path}` is no lock: {why}", help=hint)) from None


def _for_machines(where: Where) -> dict[str, str] | None:
    return None if where is None else {"device": where[0], "runs_on": where[1]}


def _finding(
    path: str, name: str | None, before: Plan | str, now: Plan, changes: Mapping[str, tuple[Where, Where]]
) -> Diagnostic:
    rows = collapse_ranges(changes.items())
    notes = [f"`{row.pattern}`: {format_place(row.key[0])} -> {format_place(row.key[1])}" for row in rows]
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"and {len(notes) - _MOST_NOTES} more"]
    if not notes:
        notes = [_no_move(before, now)]
    of = f" of `{name}`" if name else ""
    digest = before if isinstance(before, str) else before.digest
    return Diagnostic(
        "DP505",
        f"the plan{of} is not the one in `{path}`",
        notes=(*notes, f"digest {digest[:19]}, now {now.digest[:19]}"),
        help=f"where this is wanted, write it again: `--format json --output {path}`",
    )


def _no_move(before: Plan | str, now: Plan) -> str:
    if isinstance(before, str):
        return "the file holds only a digest: the JSON of a plan would show what moved"
    return f"no module moved: {other_changes(before, now)}"
