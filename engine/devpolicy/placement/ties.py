"""Tied tensors stay together.

Owns what happens where a rule would part them: it is refused, it takes the whole group along, or it
does not apply. It knows no host.
"""

from __future__ import annotations

from collections.abc import Sequence

from devpolicy.errors import Diagnostic, Unsatisfiable
from devpolicy.language.policy import Policy, Rule, Term, Ties
from devpolicy.model import ModelTree
from devpolicy.placement.units import Unit

Action = tuple[str, tuple[Term, ...]]


def bind(tree: ModelTree, units: Sequence[Unit], policy: Policy) -> list[list[int]]:
    """Return the groups of units that share a tensor, and give each group's units one chain of rules.

    Changes the units' chains. Raises `Unsatisfiable` (DP401) where a rule parts a group and may not.
    """
    groups = []
    for tie in tree.ties:
        holders = _holders(tree, units, tie)
        if len(holders) > 1:
            _agree(tie, [units[number] for number in holders], policy)
            groups.append(list(holders))
    return groups


def _holders(tree: ModelTree, units: Sequence[Unit], tie: tuple[str, ...]) -> dict[int, str]:
    """The units that hold a group's tensors, each with the first tensor's name."""
    owner: dict[int, str] = {}
    for name in tie:
        position = tree.index[name.rpartition(".")[0]]
        # Few models have more than a handful of ties, so a walk over the units is cheap enough.
        number = next(at for at, unit in enumerate(units) if unit.start <= position < unit.end)
        owner.setdefault(number, name)
    return dict(sorted(owner.items()))


def _agree(tie: tuple[str, ...], members: list[Unit], policy: Policy) -> None:
    """Give the members one chain. Each round drops one rule from one chain, or ends."""
    while True:
        actions = [_action(member, policy.rules) for member in members]
        if len(set(actions)) == 1:
            break
        parting = _parting(members, policy)
        if parting is None:
            break
        member, rule, mode = parting
        if mode == "refuse":
            raise Unsatisfiable(_refusal(tie, rule, members))
        member.chain = member.chain[1:]
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


def _parting(members: list[Unit], policy: Policy) -> tuple[Unit, Rule, Ties] | None:
    """Find a rule that parts the group and must be refused or skipped; `None` where the rest may be bound.

    A rule to an executing device binds the group silently, unless another such rule wants it elsewhere.
    """
    heads = [(member, policy.rules[member.chain[0]]) for member in members if member.chain]
    for member, rule in heads:
        mode = rule.ties or policy.ties
        if rule.offload and mode != "follow":
            return member, rule, mode
    running = {rule.prefer: (member, rule) for member, rule in heads if rule.prefer}
    if len(running) > 1:
        member, rule = list(running.values())[-1]
        mode = rule.ties or policy.ties
        return None if mode == "follow" else (member, rule, mode)
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
