"""The verbs: `plan`, `plan_all`, `resolve`, `use_policy`.

Owns what callers see. The order of arguments is the same everywhere: policy, model, host; all else by keyword. `inputs`
gathers the three, `context` holds the policy in use, and `joint` plans components beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.language.layers import in_order
from devpolicy._core.placement.plan import Plan
from devpolicy._core.verbs.context import (
    VARIABLE,
    active_device,
    active_policy,
    current_context,
    device_of,
    planning_state,
    use_policy,
)
from devpolicy._core.verbs.inputs import HostLike, PolicyLike, class_path, policy_of, shown, tree_of
from devpolicy._core.verbs.joint import Request


def plan(
    policy: PolicyLike,
    model: Any,
    host: HostLike | None = None,
    *,
    component: str | None = None,
    target: str | None = None,
    architecture: str | None = None,
) -> Plan:
    """Compile a policy for a model and a host.

    `model` is a `ModelTree`, a `torch.nn.Module`, a Transformers configuration, a catalogue name, a checkpoint folder,
    or a hub id that is in the local cache; `None` is what the policy says of the `component` (`model`, `needs`). `host`
    is by default this machine; inside `use_policy` it is the block's, beside what other components were resolved to
    there. Components that the policy writes before this one, and of which it says the `model` or what they need, are
    planned first: their memory is not there for it. `target` names the consumer whose form is planned; by default the
    policy's for the component, else `"hf"`. Planning keeps nothing: the same call gives the same plan.

    `architecture` names the class that a checkpoint or a configuration is loaded as, a model class or an auto class of
    Transformers; by default the one whose tensors the checkpoint holds.

    Raises `PolicyError`, `HostError` or `ModelError` for an input that cannot be read, and `Unsatisfiable` where the
    policy cannot be met.
    """
    loaded = policy_of(policy)
    if architecture is not None:
        model = tree_of(model, architecture)
    return planning_state(host, loaded).place(Request(loaded, component, model, target=target)).plan


def plan_all(
    policy: PolicyLike,
    models: Mapping[str, Any] | None = None,
    host: HostLike | None = None,
    *,
    target: str | None = None,
) -> dict[str, Plan]:
    """Compile a policy for its components on one host, in the order in which it writes them.

    Each sees what those before it took. `models` maps a component's name to its model, as `plan` takes it; components
    that are not in it have the `model` that the policy names, or take what it says that they need. Components that only
    `models` has stand where the policy writes the first glob of their name, else last. `target` is by default the
    policy's for each. Raises as `plan` does, and `PolicyError` (DP105) for a component without a model.
    """
    if models is not None and not isinstance(models, Mapping):
        raise DevPolicyError(f"`models` maps names of components to models, not {shown(models)}")
    loaded, given = policy_of(policy), models or {}
    for name in given:
        if not isinstance(name, str):
            raise DevPolicyError(f"a component is named by text, not by {shown(name)}")
    joint = replace(planning_state(host, loaded).without(in_order(loaded, given)), models=given)
    return {name: placed.plan for name, placed in joint.place_all(loaded, target=target).items()}


def resolve(
    policy: PolicyLike,
    model: Any = None,
    host: HostLike | None = None,
    *,
    component: str | None = None,
    component_class: type | str | None = None,
    target: str | None = None,
    strict: bool = False,
) -> ComponentDevice:
    """Return the device that a policy gives a component: with a model the whole plan's, without it the device choice.

    The model is the one given, else what the policy says of the component (`model`, `needs`). Without either, rules
    about modules cannot be applied (DP504), and with one, a rule may match nothing (DP501): that is a
    `DevPolicyWarning`, and with `strict` an error (`Unsatisfiable`). `component_class`, a class or its path, is what
    `type` in a policy is compared with.

    Inside `use_policy`, without a `host` of its own, the call takes the block's host, and what a model takes there is
    kept: later calls see it. Components that the policy writes before this one are given their place first, where it
    says what they need, so that the order of the calls does not matter for them. A component that is resolved again,
    by the same name, is not counted twice.
    """
    loaded = policy_of(policy)
    request = Request(loaded, component, model, class_path(component_class), target)
    block = current_context(host)
    if block is not None:
        return block.device(request, strict=strict)
    return device_of(planning_state(host, loaded), request, strict=strict)


__all__ = ["VARIABLE", "active_device", "active_policy", "plan", "plan_all", "resolve", "use_policy"]
