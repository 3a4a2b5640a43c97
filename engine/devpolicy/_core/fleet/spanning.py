"""A model that no node holds, over several nodes: vLLM's pipeline stages, one bundle for each rank.

Owns which nodes are taken and the settings for vLLM and Ray. What spans nodes is an engine's pipeline, never a device
map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.fleet.components import FleetComponent, Node, Said, components_of, nodes_of
from devpolicy._core.fleet.planner import models_of
from devpolicy._core.fleet.ray_forms import node_labels
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import MOST_DEVICES, Host
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.wishes import Wishes
from devpolicy._core.public import public
from devpolicy._core.targets.stages import stages, vllm
from devpolicy._core.verbs.inputs import PolicyLike, policy_of

_OF_ONE_MACHINE = ("--device-ids",)
"""What says nothing where Ray places the ranks."""


@public("devpolicy.targets.ray")
def vllm_over_nodes(
    policy: PolicyLike, model: Any = None, fleet: Fleet | str | None = None, *, component: str | None = None
) -> dict[str, Any]:
    """Return how vLLM serves a model over several nodes: its arguments and variables, and the placement group.

    The nodes are alike and otherwise free, as few as hold the model, and of the smallest kind that does. Each pipeline
    rank is one bundle of one GPU, in the order of the layers. `model` is what `plan` takes; `None` is the model that
    the policy names for the `component`.

    Raises `Unsatisfiable` (DP308) where no set of alike nodes holds it, and for what vLLM cannot express.
    """
    there = fleet if isinstance(fleet, Fleet) else Fleet.load(fleet)  # type: ignore[arg-type] # it says what it takes
    models = {component: model} if model is not None else models_of(None)
    nodes = nodes_of(there)
    found = components_of(policy_of(policy), models, nodes, "vllm")
    asked = next((one for one in found if one.name == component), None)
    if asked is None:
        names = ", ".join(f"`{one.title}`" for one in found)
        raise Unsatisfiable(Diagnostic("DP308", f"which component is served? there are {names}"))
    notes: tuple[str, ...] = ()
    for group in _groups(asked, nodes):
        plan = _plan(asked, group)
        if isinstance(plan, Plan):
            return _told(plan, _joined(group), group, there)
        notes = next((one.notes or (one.message,) for one in plan), notes)  # of most nodes, in the end
    message = f"no set of alike nodes of the fleet holds `{asked.title}` as stages of vLLM"
    help_ = "add nodes of one kind, or take another checkpoint of the model"
    raise Unsatisfiable(Diagnostic("DP308", message, notes=notes, help=help_))


def _groups(component: FleetComponent, nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield sets of alike nodes, small ones first, of these those of small nodes."""
    kinds: dict[int, list[Node]] = {}
    for node in nodes:
        if not component.unlabelled(node) and node.host.devices("cuda"):
            kinds.setdefault(node.kind, []).append(node)
    for count in range(1, max(map(len, kinds.values()), default=0) + 1):
        for group in kinds.values():
            if len(group) >= count and count * len(group[0].host.devices("cuda")) <= MOST_DEVICES:
                yield group[:count]


def _joined(group: Sequence[Node]) -> Host:
    """Return nodes as one host, whose GPUs are those of the first, then those of the second, and so on."""
    devices = [replace(one, id=None) for node in group for one in node.host.devices("cuda")]
    return replace(group[0].host, accelerators=tuple(devices))


def _plan(component: FleetComponent, group: Sequence[Node]) -> Plan | Sequence[Diagnostic]:
    """Return a plan for nodes as one host, or why there is none."""
    said = component.by_kind[group[0].kind]
    if not isinstance(said, Said):
        return ()
    policy = replace(said.policy, replicas=1)
    try:
        return Wishes(policy, said.models, _joined(group), "vllm", {}).grant(advise=False).plans[0]
    except Unsatisfiable as refused:
        return refused.diagnostics


def _told(plan: Plan, host: Host, group: Sequence[Node], fleet: Fleet) -> dict[str, Any]:
    each = len(group[0].host.devices("cuda"))
    ranks = [group[(device.id or 0) // each].name for device in stages(plan, host).devices]
    told = vllm(plan, host)
    arguments: list[str] = []
    words = iter(told["arguments"])  # type: ignore[call-overload] # a list of words
    for word in words:
        if word in _OF_ONE_MACHINE:
            next(words)
        else:
            arguments.append(word)
    return {
        "arguments": ["--distributed-executor-backend", "ray", *arguments],
        "env": told["env"],
        "placement_group": {
            "bundles": [{"CPU": 1.0, "GPU": 1.0} for _ in ranks],
            "strategy": "PACK",
            "bundle_label_selector": [node_labels(fleet, node) for node in ranks],
        },
    }
