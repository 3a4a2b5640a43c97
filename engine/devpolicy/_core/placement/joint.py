"""Components beside each other on one host.

Owns what is planned for a component without a model, and the refusal of a component beside others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from devpolicy._core.abilities import target_of
from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.model.tree import ModelTree, Module, Tensor
from devpolicy._core.placement.ledger import reserved
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan


def one_piece(policy: ResolvedPolicy) -> tuple[ResolvedPolicy, ModelTree]:
    """Return what is planned for a component of which only the bytes are known, given what the policy says of it.

    It is one opaque tensor: no rules apply, and it cannot be offloaded. Raises `PolicyError`
    (DP105) where the policy does not say what it needs.
    """
    if policy.component is None or policy.needs is None:
        name = "it" if policy.component is None else f"component `{policy.component}`"
        raise PolicyError(Diagnostic("DP105", f"no model is given for {name}", help=how_to_give(policy.component)))
    memory = tuple(replace(rule, kv_cache=None, activations=None) for rule in policy.memory)
    whole = replace(policy, rules=(), overflow=(), split="never", memory=memory)
    needs = Tensor("needs", (policy.needs,), "uint8")
    return whole, ModelTree(policy.component, (Module("", "Component", (needs,)),))


def how_to_give(component: str | None) -> str:
    """Return the way out where a component has no model."""
    name = component or "NAME"
    return f"write `model` or `needs` in `[component.{name}]`, or give it: `--model {name}=MODEL`"


def refused_beside(
    refused: Unsatisfiable, component: str, before: Sequence[Plan], suggestions: Sequence[str]
) -> Unsatisfiable:
    """Return a refusal that names the component, what those before it took, and the `suggestions` that were tried."""
    first, *rest = refused.diagnostics
    notes = [note for plan in before if (note := _took(plan))]
    help_ = first.help
    if first.code in ("DP301", "DP302", "DP303"):
        lines = [*help_.splitlines(), *(f"or {one}" for one in suggestions)]
        help_ = "\n".join(lines).removeprefix("or ")
    message = f"component `{component}`: {first.message}"
    return Unsatisfiable([replace(first, message=message, notes=(*first.notes, *notes), help=help_), *rest])


def starts_after(plan: Plan, before: Sequence[Plan]) -> tuple[str, ...]:
    """Return the components that must have started before this one: on a device of both, one counts what is free.

    What is told of the free memory was computed with what those before it take, and without what comes after it.
    """
    one = _counts_free(plan)
    return tuple(
        other.component
        for other in before
        if other.component is not None and (one or _counts_free(other)) and not _gpus(plan).isdisjoint(_gpus(other))
    )


def _counts_free(plan: Plan) -> bool:
    return target_of(plan.target).abilities.budget == "same-fraction-of-free"


def _gpus(plan: Plan) -> set[str]:
    return {device for device in plan.ledger if device not in ("cpu", "disk")}


def _took(plan: Plan) -> str:
    parts = [f"{format_size(size)} of `{device}`" for device, size in reserved(plan).items() if size]
    who = f"`{plan.component}`" if plan.component is not None else "a component without a name"
    return f"{who}, which is there before, takes {', '.join(parts)}" if parts else ""
