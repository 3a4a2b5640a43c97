"""What can be said of rules on a model's tree, without a host.

Owns the findings: a pattern that names a tensor (DP203), a rule that matches nothing (DP501), a rule that earlier ones
shadow wholly (DP502). Plans are refused for the errors among them; `devpolicy check --model` tells them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

from devpolicy._core.errors import Diagnostic, Place
from devpolicy._core.language.conditions import Condition
from devpolicy._core.language.policy import ResolvedPolicy, Rule
from devpolicy._core.memory.sizing import size_model
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.divide import Division, divide
from devpolicy._core.placement.matching import numbers


def lint(policy: ResolvedPolicy, tree: ModelTree) -> list[Diagnostic]:
    """Return what is said of a policy's rules on a model, in written order."""
    division = divide(tree, policy.rules, size_model(tree, policy.workload))
    return findings_of_rules(policy, tree, division)


def lint_components(components: Iterable[tuple[ResolvedPolicy, ModelTree]]) -> list[Diagnostic]:
    """Return what is said of the rules that apply to components, each on its own model.

    A rule that applies to several may match nothing in some of them: warn only where it is unused in all.
    """
    found: dict[Diagnostic, None] = {}
    idle: dict[Place | None, list[Diagnostic]] = {}
    applied: Counter[Place | None] = Counter()
    for flat, tree in components:
        applied.update(rule.place for rule in flat.rules)
        division = divide(tree, flat.rules, size_model(tree, flat.workload))
        for finding in findings_of_rules(flat, tree, division):
            if finding.severity == "error":
                found[finding] = None
            else:
                idle.setdefault(finding.place, []).append(finding)
    everywhere = [findings[0] for place, findings in idle.items() if len(findings) == applied[place]]
    return [*found, *everywhere]


def findings_of_rules(policy: ResolvedPolicy, tree: ModelTree, division: Division) -> list[Diagnostic]:
    """Return what is said of the rules by which a tree was divided, in written order.

    A rule of the component's own that matches nothing is an error: it was written for this model.
    """
    matching = 0
    for mask in division.matching_rules:
        matching |= mask
    idle = [number for number in range(len(policy.rules)) if not matching >> number & 1]
    findings = {number: _idle(policy.rules[number], number, tree, division, policy) for number in idle}
    if len(policy.rules) > 1:
        findings.update(_shadowed(policy, tree, division))
    return [findings[number] for number in sorted(findings)]


def _idle(rule: Rule, number: int, tree: ModelTree, division: Division, policy: ResolvedPolicy) -> Diagnostic:
    """Return the finding of a rule that matches no tensor."""
    tensors = set(tree.tensor_names()) if rule.match else set()
    tensor = next((pattern.text for pattern in rule.match if pattern.text in tensors), None)
    if tensor is not None and number not in division.matched:
        return Diagnostic(
            "DP203",
            f"`{tensor}` in rule `{rule.name}` is a tensor, and rules place modules",
            rule.place,
            "names a tensor",
            help=f"write `{tensor.rpartition('.')[0]}`, the module that holds it",
        )
    finding = partial(Diagnostic, "DP501", place=rule.place)
    if number in division.matched:
        return finding(
            f"rule `{rule.name}` matches only modules of `{tree.name}` that hold no tensors",
            help=f"{tree.listed_by} with their sizes",
            severity="warning",
        )
    return finding(
        f"rule `{rule.name}` matches nothing in `{tree.name}`",
        help=tree.listed_by,
        severity="error" if own_rule(rule, policy) and not policy.several_models else "warning",
    )


def own_rule(rule: Rule, policy: ResolvedPolicy) -> bool:
    """Whether a rule is the component's own; a replica's is that of the component."""
    if policy.component is None or rule.component is None:
        return False
    stem, _, number = policy.component.rpartition("/")
    return rule.component == policy.component or (number.isdecimal() and rule.component == stem)


def _shadowed(policy: ResolvedPolicy, tree: ModelTree, division: Division) -> dict[int, Diagnostic]:
    """Return an error for each rule whose every tensor is decided by rules that were written before it."""
    shadows = list(_shadows(policy, tree))
    alive = 0
    before: dict[int, int] = {}
    for mask in division.matching_rules:
        for number in numbers(mask & ~alive):
            deciding = mask & shadows[number]
            if deciding:
                before[number] = before.get(number, 0) | (deciding & -deciding)
            else:
                alive |= 1 << number
    return {
        number: _finding(policy, number, names, tree) for number, names in before.items() if not alive >> number & 1
    }


def _shadows(policy: ResolvedPolicy, tree: ModelTree) -> Iterator[int]:
    """Yield for each rule the earlier ones that leave nothing to it where they speak, as bits.

    A rule of a nearer text, profile or component is meant to come first, and one with another `when` counts on other
    hosts. One that is `skip`ped where it would part tied tensors leaves these to the next.
    """
    final: dict[tuple[str, str | None, Condition | None], int] = {}
    for number, rule in enumerate(policy.rules):
        kind = (rule.layer, rule.component)
        yield final.get((*kind, None), 0) | final.get((*kind, rule.when), 0)
        skipped = bool(tree.ties) and (rule.ties or policy.ties) == "skip"
        if rule.on_exhausted == "error" and not skipped:
            final[*kind, rule.when] = final.get((*kind, rule.when), 0) | 1 << number


def _finding(policy: ResolvedPolicy, number: int, shadowing: int, tree: ModelTree) -> Diagnostic:
    rule = policy.rules[number]
    names = [f"`{policy.rules[other].name}`" for other in numbers(shadowing)]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    verb = "decides" if len(names) == 1 else "decide"
    return Diagnostic(
        "DP502",
        f"rule `{rule.name}` decides nothing in `{tree.name}`: before it {shown} {verb}",
        rule.place,
        "never decides",
        help='put the narrower rule first, or set `on_exhausted = "next"` in the one before it',
    )
