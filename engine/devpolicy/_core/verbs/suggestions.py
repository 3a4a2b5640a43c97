"""Suggestions where a component has no room beside others: what one change to another component would do.

Owns the trials. Each plans all components again, with one thing altered, so what is suggested is known to work. What
the component itself could change is `devpolicy._core.placement.suggestions`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from devpolicy._core.errors import PolicyError, Unsatisfiable
from devpolicy._core.language.layers import in_order
from devpolicy._core.language.policy import apply_overlays
from devpolicy._core.placement.ledger import reserved_bytes
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.toml.writer import write_key

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.verbs.joint import Planned, Request

_MOST_TRIED = 4
"""Components of which other places are tried."""
_LARGE = 5_000
"""Modules, in sum, above which nothing is tried: nobody waits that long."""


def joint_suggestions(host: Host, request: Request, tree: ModelTree | None, others: Sequence[Planned]) -> Iterator[str]:
    """Yield each change that makes room for a request beside `others`: one of them on the CPU, another order."""
    trees = [tree, *(one.tree for one in others)]
    if sum(len(one.modules) for one in trees if one is not None) > _LARGE:
        return
    policy = request.policy
    named = {entry.name for entry in policy.components}
    own = [one.plan.component for one in others if one.request.policy == policy and one.plan.component in named]
    for other in own[:_MOST_TRIED]:
        if _fit(host, _on_the_cpu(policy, other, host), request, tree, others):
            yield f'`prefer = "cpu"` in {_table(other)}'
    first = [entry for entry in policy.components if entry.name == request.component]
    changed = replace(policy, components=(*first, *(entry for entry in policy.components if entry not in first)))
    if own and first and _fit(host, changed, request, tree, others):
        yield f"{_table(request.component)} written before {_table(own[0])}"


def _on_the_cpu(policy: Policy, component: str, host: Host) -> Policy:
    """Return a policy with one component on the CPU, and all of them in the order that they had."""
    asked = policy.with_overrides(values=[f'component.{write_key(component)}.prefer = "cpu"'])
    places = {entry.name: number for number, entry in enumerate(policy.components)}
    changed = apply_overlays(asked, host)
    return replace(changed, components=tuple(sorted(changed.components, key=lambda entry: places[entry.name])))


def _table(name: str | None) -> str:
    return f"`[component.{write_key(name or '')}]`"


def _fit(host: Host, policy: Policy, request: Request, tree: ModelTree | None, others: Sequence[Planned]) -> bool:
    """Whether all of them can be planned by a changed policy, in its order."""
    moved = {one.plan.component: one for one in others if one.request.policy == request.policy}
    asked = {name: (one.request, one.tree) for name, one in moved.items() if name is not None}
    asked[str(request.component)] = (request, tree)
    plans = [one.plan for one in others if one.plan.component not in asked]
    try:
        for name in (name for name in in_order(policy, asked) if name in asked):
            one, its_tree = asked[name]
            resolved = policy.for_component(name, one.component_class)
            reserved = reserved_bytes(plans)
            plans.append(make_plan(resolved, its_tree, host, target=one.target, reserved=reserved, advise=False))
    except (Unsatisfiable, PolicyError):
        return False
    return True
