"""What can be said of a policy's rules once a model is known, without a host.

Owns the findings of `check --model`: rules that match nothing (DP501), and rules that never decide (DP502).
"""

from __future__ import annotations

from bisect import bisect_right

from devpolicy.errors import Diagnostic
from devpolicy.language.policy import Policy
from devpolicy.model import ModelTree
from devpolicy.placement.planner import unused_rules
from devpolicy.placement.sizing import size_model
from devpolicy.placement.units import Division, divide


def lint(policy: Policy, tree: ModelTree) -> list[Diagnostic]:
    """Return warnings about a policy's rules on a model. Raises `PolicyError` (DP203) where a rule names a tensor."""
    sizing = size_model(tree, policy.workload)
    division = divide(tree, policy.rules, sizing)
    findings = unused_rules(policy, tree, division)
    decided = {number for unit in division.units for number in unit.chain}
    starts = [unit.start for unit in division.units]
    for number in sorted(division.matched.keys() - decided):
        rule = policy.rules[number]
        alone = divide(tree, [rule], sizing)
        before = _deciding(policy, division, starts, [unit.start for unit in alone.units if unit.chain])
        if before:
            message = f"rule `{rule.name}` decides nothing in `{tree.name}`: before it {before}"
            hint = "put the narrower rule first"
        else:
            message = f"rule `{rule.name}` matches only modules of `{tree.name}` that hold no tensors"
            hint = f"`devpolicy model show {tree.name}` lists its modules with their sizes"
        findings.append(Diagnostic("DP502", message, rule.place, help=hint, severity="warning"))
    return findings


def _deciding(policy: Policy, division: Division, starts: list[int], positions: list[int]) -> str:
    """Say which rules decide the units at these positions of the tree."""
    units = (division.units[max(0, bisect_right(starts, position) - 1)] for position in positions)
    numbers = sorted({number for unit in units for number in unit.chain})
    named = ", ".join(f"`{policy.rules[number].name}`" for number in numbers)
    return f"{named} decides" if len(numbers) == 1 else f"{named} decide" if named else ""
