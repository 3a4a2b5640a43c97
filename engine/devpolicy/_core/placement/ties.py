"""Tied tensors stay together.

Owns what happens where a rule would part them: it is refused, it takes the whole group along, or it
does not apply. It knows no host.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from devpolicy._core.connected import united
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.policy import Policy, Rule, Term, Ties
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.units import Unit

Action = tuple[str, tuple[Term, ...]]


def bind(tree: ModelTree, units: Sequence[Unit], policy: Policy) -> list[list[int]]:
    """Return the groups of units that share a tensor, and give each group's units one chain of rules.

    Changes the units' chains. Raises `Unsatisfiable` (DP401) where a rule parts a group and may not.
    """
    starts = [unit.start for unit in units]
    held = [(tie, holders) for tie in tree.ties if len(holders := _holders(tree, starts, tie)) > 1]
    # A head may share its weight with the embedding and its bias with the module around it: that is one group.
    groups = united(sorted(holders) for _, holders in held)
    first_tie: dict[int, tuple[str, ...]] = {}
    for tie, holders in held:
        first_tie.update((at, tie) for at in holders if at not in first_tie)
    for group in groups:
        _agree(first_tie[group[0]], [units[number] for number in group], policy)
    return groups


def _holders(tree: ModelTree, starts: list[int], tie: tuple[str, ...]) -> set[int]:
    """The units that hold the tensors of one tie, given where each unit starts."""
    return {bisect_right(starts, tree.index[name.rpartition(".")[0]]) - 1 for name in tie}


def _agree(tie: tuple[str, ...], members: list[Unit], policy: Policy) -> None:
    """Give the members one chain. Each round drops one rule from all their chains, or ends."""
    while True:
        actions = [_action(member, policy.rules) for member in members]
        if len(set(actions)) == 1:
            break
        parting = _parting(members, policy)
        if parting is None:
            break
        number, mode = parting
        if mode == "refuse":
            raise Unsatisfiable(_refusal(tie, policy.rules[number], members))
        for member in members:
            if member.chain[:1] == (number,):
                member.leave_out_first(policy.rules)
    winner = min((member.chain for member in members if member.chain), default=())
    for member in members:
        member.chain = winner


def _action(member: Unit, rules: Sequence[Rule]) -> Action | None:
    if not member.chain:
        return None
    rule = rules[member.chain[0]]
    if rule.offload:
        return "offload", rule.offload
    return ("prefer", rule.prefer) if rule.prefer else None


def _parting(members: list[Unit], policy: Policy) -> tuple[int, Ties] | None:
    """Find a rule that parts the group and must be refused or skipped; `None` where the rest may be bound.

    A rule to an executing device binds the group silently, unless another such rule wants it elsewhere.
    """
    heads = sorted({member.chain[0] for member in members if member.chain})
    for number in heads:
        rule = policy.rules[number]
        mode = rule.ties or policy.ties
        if rule.offload and mode != "follow":
            return number, mode
    running = [number for number in heads if policy.rules[number].prefer]
    if len({policy.rules[number].prefer for number in running}) > 1:
        # The rule written last gives way.
        mode = policy.rules[running[-1]].ties or policy.ties
        return None if mode == "follow" else (running[-1], mode)
    return None


def _refusal(tie: tuple[str, ...], rule: Rule, members: list[Unit]) -> Diagnostic:
    where = " or ".join(str(term) for term in rule.offload or rule.prefer)
    verb = "keep" if rule.offload else "run"
    names = " and ".join(f"`{name}`" for name in tie[:2]) + (f" and {len(tie) - 2} more" if len(tie) > 2 else "")
    both = ", ".join(f'"{member.path}"' for member in members)
    return Diagnostic(
        "DP401",
        f"{names} are one tensor, and rule `{rule.name}` would {verb} only a part of them on `{where}`",
        rule.place,
        "parts tied tensors",
        help=f"match all of {both}, or set `ties`:\n"
        f'`ties = "follow"` takes the whole group along, `ties = "skip"` leaves it where it is',
    )
