"""Annotations of a plan: its certificate, and the comparison with a hypothetical host or workload.

Owns both forms. Annotations never change a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.cli.what_if import Changes, comparison, summary
from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.errors import Unsatisfiable

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.verbs.joint import Planned

Plans = Mapping[str | None, "Plan"]


class Annotation(NamedTuple):
    """One annotation, of one component or of all: data under a key for programs, lines for people."""

    component: str | None
    key: str
    data: dict[str, Any]
    lines: list[Line]


def certificates(placed: Mapping[str | None, Planned], host: Host) -> list[Annotation]:
    """Return the certificate of each plan."""
    from devpolicy._core.certify import certify

    told = []
    for name, one in placed.items():
        made = certify(one.plan, one.resolved, one.tree, host, reserved=one.reserved)
        text = f"no placement of whole units takes less than {as_ms(made.bound_ns)}: gap {made.gap:.2%}, by {made.by}"
        told.append(Annotation(name, "certificate", made.to_dict(), [[("certified ", "strong"), (text, "")]]))
    return told


def compared(changes: Changes, plans: Plans, present: Callable[[], Plans]) -> Annotation:
    """Return the comparison with the plan that is made where nothing is changed."""
    try:
        before = summary(present())
    except Unsatisfiable as refused:
        before = summary(refused)
    then = summary(plans)
    data = {"changes": list(changes.written), "as_it_is": before, "then": then}
    return Annotation(None, "what_if", data, comparison(changes, before, then))


def lines_of(annotations: Sequence[Annotation]) -> list[Line]:
    """Return the lines of all remarks, in their order."""
    return [line for annotation in annotations for line in annotation.lines]
