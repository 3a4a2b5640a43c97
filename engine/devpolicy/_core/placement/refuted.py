"""What the sweep of architectures says of a plan's model, where it was seen not to run as the plan divides it.

Owns the warning. What was seen is a fact of the model tree (`divided`), which its reader takes from the table.
"""

from __future__ import annotations

from devpolicy._core.errors import Diagnostic
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.search import Solution

_HINTS = {
    "one-device": '`split = "never"` keeps it on one device; `devpolicy dry-run` says whether this plan runs',
    "no-offload": "leave nothing on the CPU and the disk; `devpolicy dry-run` says whether this plan runs",
    "wrong": "`devpolicy dry-run` says what this plan does",
}


def findings_of_class(tree: ModelTree, solution: Solution) -> list[Diagnostic]:
    """Return a warning where a class of this name failed when it was divided as it is here."""
    verdict, _, reason = dict(tree.metadata).get("divided", "").partition(": ")
    several = len(set(solution.device)) > 1
    meant = solution.offloaded or (several and verdict != "no-offload")
    if verdict not in _HINTS or not meant:
        return []
    message = f"`{tree.modules[0].class_name}` was tried in parts, and failed: {reason}"
    return [Diagnostic("DP419", message, help=_HINTS[verdict], severity="warning")]
