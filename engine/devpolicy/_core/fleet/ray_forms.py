"""A fleet's plan in Ray's own forms: placement-group bundles, options of actors, options of Serve deployments.

Owns which components share a bundle, and how each is shown its GPUs. It imports no Ray. Ray chooses which GPUs of a
node a bundle gets, so alike ones are asked for by their number. Unlike ones are asked for by a resource that names the
card, `devpolicy_cuda_3`, with which the node must be started, and shown to the actor by their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devpolicy._core.connected import connected_components
from devpolicy._core.errors import Diagnostic, FleetError, Unsatisfiable
from devpolicy._core.fleet.plan import FleetPlan, NodePlan
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.public import public

NODE_LABEL = "devpolicy/node"
NODE_ID = "ray.io/node-id"
_RESOURCES = {"cuda": "GPU", "xpu": "GPU", "hpu": "HPU", "npu": "NPU"}
"""What Ray calls the accelerators of a type. Of others (mps) it knows nothing."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
_STEPS = 10_000
"""Ray counts resources in ten-thousandths."""


@public("devpolicy.targets.ray")
@dataclass(frozen=True, slots=True)
class Bundle:
    """What is reserved on one node for components that share devices, or for one alone."""

    node: str
    components: tuple[str, ...]
    devices: tuple[int, ...]
    """The ordinals on the whole node that were planned."""
    resources: Mapping[str, float]
    label_selector: Mapping[str, str]
    by_id: bool
    """Whether its actors are shown these very devices, and not any that are alike."""


def fleet_of(plan: FleetPlan, fleet: Fleet | None) -> Fleet:
    """Return the fleet that is given, else the plan's own. Raises `FleetError` where it lacks a node of the plan."""
    found = plan.fleet if fleet is None else fleet
    if found is None:
        hint = "give it: `to_ray(plan, fleet)`"
        raise FleetError(Diagnostic("", "a plan that was read from a file does not hold its fleet", help=hint))
    missing = next((node for node in plan.nodes if node not in found), None)
    if missing is not None:
        raise FleetError(f"the plan is for another fleet: this one has no node `{missing}`")
    return found


def node_labels(fleet: Fleet, node: str) -> dict[str, str]:
    """Return the label by which Ray finds a node: its own name for it, its id, or the name that we give it."""
    labels = fleet.labels(node)
    key = next((name for name in (NODE_LABEL, NODE_ID) if name in labels), None)
    return {NODE_LABEL: node} if key is None else {key: labels[key]}


def card_resource(kind: str, ordinal: int) -> str:
    """Return the name of the resource for one card of a node."""
    return f"devpolicy_{kind}_{ordinal}"


def node_resources(host: Host) -> dict[str, float]:
    """Return the resources with which a node of unlike GPUs is started: one for each card. Empty for alike ones."""
    if not _unlike(host):
        return {}
    return {card_resource(one.type, one.id or 0): 1 for one in host.accelerators if one.fault is None}


def _unlike(host: Host) -> bool:
    """Whether the accelerators of a host are not all alike, as far as plans look at them."""

    def facts(one: Accelerator) -> tuple[object, ...]:
        return one.type, one.memory, one.name, one.capability, one.fault, one.unified

    return len({facts(one) for one in host.accelerators}) > 1


@public("devpolicy.targets.ray")
def bundles(plan: FleetPlan, fleet: Fleet | None = None) -> tuple[Bundle, ...]:
    """Return what a plan reserves, in the order of its components.

    `fleet` is needed for a plan that was read from a file. Raises `Unsatisfiable` (DP404) for what Ray cannot express.
    """
    fleet = fleet_of(plan, fleet)
    found = [_bundle(plan, fleet, node, group) for node, names in plan.nodes.items() for group in _groups(plan, names)]
    order = list(plan.components)
    return tuple(sorted(found, key=lambda one: order.index(one.components[0])))


def _groups(plan: FleetPlan, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the components of a node that share accelerators; one that uses none is alone."""
    used = {name: devices_of(plan.components[name]) for name in names}
    by_device: dict[str, list[str]] = {}
    for name, devices in used.items():
        for device in devices:
            by_device.setdefault(device, []).append(name)
    groups = connected_components([*by_device.values(), *([name] for name in names)])
    yield from ([name for name in names if name in group] for group in groups)


def devices_of(one: NodePlan) -> list[str]:
    """Return the accelerators that a plan uses, in the order of their ordinals."""
    units = one.plan.placements.values()
    used = {str(device) for unit in units for device in (unit.device, unit.runs_on)} - {"cpu", "disk"}
    return sorted(used, key=lambda device: int(device.partition(":")[2] or 0))


def _bundle(plan: FleetPlan, fleet: Fleet, node: str, names: Sequence[str]) -> Bundle:
    devices = sorted({device for name in names for device in devices_of(plan.components[name])}, key=_ordinal)
    kinds = {device.partition(":")[0] for device in devices}
    resources: dict[str, float] = {"CPU": float(len(names))}
    unlike = _unlike(fleet[node])
    by_id = bool(devices) and (unlike or (len(names) > 1 and len(devices) > 1))
    for kind in kinds:
        if kind not in _RESOURCES:
            raise _not_known(node, names, f"Ray has no resource for `{kind}` devices")
        if by_id and kind != "cuda":
            raise _not_known(node, names, f"which `{kind}` devices an actor sees cannot be said to Ray")
        resources[_RESOURCES[kind]] = float(sum(device.startswith(f"{kind}:") for device in devices))
        if unlike:
            resources |= {card_resource(kind, _ordinal(device)): 1.0 for device in devices}
    return Bundle(node, tuple(names), tuple(map(_ordinal, devices)), resources, node_labels(fleet, node), by_id)


def _ordinal(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _not_known(node: str, names: Sequence[str], why: str) -> Unsatisfiable:
    listed = ", ".join(f"`{name}`" for name in names)
    hint = "run it on that machine itself, with `devpolicy run`, or keep it off: `node = { cuda = { count = 1 } }`"
    return Unsatisfiable(Diagnostic("DP404", f"{listed} on `{node}`: {why}", help=hint))


def actor_options(bundle: Bundle, one: NodePlan, *, by_id: bool | None = None) -> dict[str, Any]:
    """Return what an actor asks of its bundle, and what it is shown of the node."""
    devices = devices_of(one)
    if not devices:
        # Without a GPU Ray leaves the variable as it is, and the process would see all of them.
        return {"num_cpus": 1, "num_gpus": 0, "runtime_env": {"env_vars": {VISIBLE: ""}}}
    if bundle.by_id if by_id is None else by_id:
        shown = ",".join(str(_ordinal(device)) for device in devices)
        return {"num_cpus": 1, "num_gpus": 0, "runtime_env": {"env_vars": {VISIBLE: shown}}}
    key = _RESOURCES[devices[0].partition(":")[0]]
    share = len(devices) if len(bundle.components) == 1 else _STEPS // len(bundle.components) / _STEPS
    return {"num_cpus": 1, "num_gpus": share} if key == "GPU" else {"num_cpus": 1, "resources": {key: share}}


@public("devpolicy.targets.ray")
def to_ray(plan: FleetPlan, fleet: Fleet | None = None) -> dict[str, Any]:
    """Return the arguments of `placement_group`, and for each component its bundle and the options of its actor.

    Raises as `bundles` does.
    """
    found = bundles(plan, fleet)
    return {
        "placement_group": {
            "bundles": [dict(one.resources) for one in found],
            "strategy": "PACK",
            "bundle_label_selector": [dict(one.label_selector) for one in found],
        },
        "actors": {
            name: {"placement_group_bundle_index": at, **actor_options(one, plan.components[name])}
            for at, one in enumerate(found)
            for name in one.components
        },
    }


@public("devpolicy.targets.ray")
def to_serve(plan: FleetPlan, fleet: Fleet | None = None) -> list[dict[str, Any]]:
    """Return the options of Ray Serve's deployments, as `serve.deployment(**options)` and its YAML file take them.

    Replicas that ask for the same are one deployment, whose copies may be on any of their nodes. Raises as `bundles`
    does.
    """
    fleet = fleet_of(plan, fleet)
    found = {name: one for one in bundles(plan, fleet) for name in one.components}
    deployments: dict[str, list[str]] = {}
    asked: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {}
    for name, one in plan.components.items():
        stem = name.rpartition("/")[0] if name.rpartition("/")[2].isdecimal() and "/" in name else name
        options = actor_options(found[name], one)
        alone = len(found[name].components) == 1
        resources = dict(found[name].resources) if alone else _own(options)
        key = next((key for key, what in asked.items() if what == (stem, options, resources)), None)
        if key is None:
            key = stem if stem not in deployments else name.replace("/", "-")
            asked[key] = (stem, options, resources)
        deployments.setdefault(key, []).append(name)
    return [_deployment(key, names, plan, fleet, *asked[key][1:]) for key, names in deployments.items()]


def _own(options: Mapping[str, Any]) -> dict[str, float]:
    return {"CPU": float(options["num_cpus"]), **({"GPU": options["num_gpus"]} if options.get("num_gpus") else {})}


def _deployment(
    name: str,
    names: Sequence[str],
    plan: FleetPlan,
    fleet: Fleet,
    options: Mapping[str, Any],
    resources: Mapping[str, float],
) -> dict[str, Any]:
    places: dict[str, list[str]] = {}
    for one in names:
        for label, value in node_labels(fleet, plan.components[one].node).items():
            places.setdefault(label, []).append(value)
    selector = {}
    for label, values in places.items():
        several = list(dict.fromkeys(values))
        selector[label] = several[0] if len(several) == 1 else f"in({','.join(several)})"
    return {
        "name": name,
        "num_replicas": len(names),
        "ray_actor_options": dict(options),
        "placement_group_bundles": [dict(resources)],
        "placement_group_strategy": "PACK",
        "placement_group_bundle_label_selector": [selector],
    }
