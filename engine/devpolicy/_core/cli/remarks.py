"""What is told beside a plan: how far it may be from the best, and what a change makes of it.

Owns how these are told to people and to programs. They change nothing of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.cli.what_if import Changes, comparison, summary
from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.errors import Unsatisfiable

if TYPE_CHECKING:
    from devpolicy._core.cli.screen import Line
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.verbs.joint import Planned

Plans = Mapping[str | None, "Plan"]


class Remark(NamedTuple):
    """What is told beside a plan: of one component or of all, as data under a key, and as lines."""

    component: str | None
    key: str
    data: dict[str, Any]
    lines: list[Line]


def certificates(placed: Mapping[str | None, Planned], host: Host) -> list[Remark]:
    """Return the certificate of each plan."""
    from devpolicy._core.certify import certify

    told = []
    for name, one in placed.items():
        made = certify(one.plan, one.request.resolved, one.tree, host, reserved=one.reserved)
        text = f"no placement of whole units takes less than {as_ms(made.bound_ns)}: gap {made.gap:.2%}, by {made.by}"
        told.append(Remark(name, "certificate", made.to_dict(), [[("certified ", "strong"), (text, "")]]))
    return told


def compared(changes: Changes, plans: Plans, present: Callable[[], Plans]) -> Remark:
    """Return the comparison with the plan that is made where nothing is changed."""
    try:
        before = summary(present())
    except Unsatisfiable as refused:
        before = summary(refused)
    then = summary(plans)
    data = {"changes": list(changes.written), "as_it_is": before, "then": then}
    return Remark(None, "what_if", data, comparison(changes, before, then))


def lines_of(remarks: Sequence[Remark]) -> list[Line]:
    """Return the lines of all remarks, in their order."""
    return [line for remark in remarks for line in remark.lines]
