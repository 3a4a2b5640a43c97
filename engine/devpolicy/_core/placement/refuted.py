"""What the sweep of architectures says of a plan's model, where it was seen not to run as a plan would divide it.

Owns what follows from it: a class that failed divided stays on one device, one that failed with parts elsewhere keeps
nothing elsewhere, and rules that want it otherwise are refused. What was seen is a fact of the model tree (`divided`),
which its reader takes from the table.
"""

from __future__ import annotations

from dataclasses import replace

from devpolicy._core.abilities import Target
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.search import Solution

_ONE_DEVICE, _NO_OFFLOAD = "one-device", "no-offload"


def kept_whole(policy: ResolvedPolicy, tree: ModelTree, consumer: Target) -> ResolvedPolicy:
    """Return the policy without what its model was seen not to run with: several devices, or parts kept elsewhere.

    What the policy leaves open is decided so. Rules that name modules stay, and are refused by `refuted` where they
    divide it.
    """
    verdict, reason = _seen(tree, consumer)
    if not verdict:
        return policy
    split = "never" if verdict == _ONE_DEVICE else policy.split
    rules = tuple(replace(rule, overflow=()) if rule.overflow else rule for rule in policy.rules)
    if (split, (), rules) == (policy.split, policy.overflow, policy.rules):
        return policy
    asked = policy.split in ("balanced", "fastest") and split == "never"
    notices = (Diagnostic("DP419", _message(tree, reason), help=_HELP[verdict], severity="warning"),) if asked else ()
    return replace(policy, split=split, overflow=(), rules=rules, notices=(*policy.notices, *notices))


def refuted(tree: ModelTree, consumer: Target, solution: Solution) -> Diagnostic | None:
    """Return why a solution is none: rules divide a class that was seen to fail so; `None` where nothing does."""
    verdict, reason = _seen(tree, consumer)
    several = len(set(solution.device)) > 1
    if not verdict or not (solution.offloaded or (several and verdict == _ONE_DEVICE)):
        return None
    return Diagnostic("DP419", _message(tree, reason), help=f"leave out the rules that divide it: {_HELP[verdict]}")


def no_room_for_it(refusal: Diagnostic, tree: ModelTree, consumer: Target) -> Diagnostic:
    """Return the refusal of an entry of `prefer` with the reason why no more devices were tried."""
    verdict, reason = _seen(tree, consumer)
    if not verdict or refusal.code != "DP301":
        return refusal
    return replace(refusal, message=f"{refusal.message}; {_message(tree, reason)}")


_HELP = {
    _ONE_DEVICE: "it stays on one device, with nothing kept elsewhere",
    _NO_OFFLOAD: "nothing of it is kept on the CPU or the disk",
}


def _seen(tree: ModelTree, consumer: Target) -> tuple[str, str]:
    """Return the verdict on a model and its reason, both empty where it may be divided as others are."""
    verdict, _, reason = dict(tree.metadata).get("divided", "").partition(": ")
    return (verdict, reason) if verdict in _HELP and consumer.abilities.assigns == "units" else ("", "")


def _message(tree: ModelTree, reason: str) -> str:
    return f"`{tree.modules[0].class_name}` was tried in parts, and failed: {reason}"
