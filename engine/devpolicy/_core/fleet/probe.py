"""`Fleet.probe`: every node of a live Ray cluster is asked for its host, all at once.

Owns the questions and the names of nodes. What a node sees is `devpolicy._core.host.probe`'s, which runs there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from devpolicy._core.errors import DevPolicyError, FleetError
from devpolicy._core.fleet.library import connected
from devpolicy._core.fleet.ray_forms import NODE_ID, NODE_LABEL
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.host import Host

_LONGEST_FAULT = 200


def probe(address: str | None, *, timeout: float) -> Fleet:
    """Return the fleet of a cluster."""
    with connected(address) as ray:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = {name: _ask(ray, node) for name, node in _named(nodes).items()}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout)
        hosts: dict[str, Host] = {}
        faults: dict[str, str] = {}
        for name, question in asked.items():
            try:
                hosts[name] = Host.parse(ray.get(question, timeout=0))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(question, force=True)
                faults[name] = f"it did not answer within {timeout:g} seconds"
            except (ray.exceptions.RayError, DevPolicyError) as failed:
                told = [line for line in str(failed).strip().splitlines() if line.strip()]
                faults[name] = f"the probe failed: {told[-1].strip() if told else failed}"[:_LONGEST_FAULT]
        labels = {name: node["Labels"] for name, node in _named(nodes).items() if name in hosts}
        # The head of a cluster often only keeps its books.
        idle = [name for name, node in _named(nodes).items() if not node["Resources"].get("CPU") and name in hosts]
        for name in idle:
            del hosts[name], labels[name]
            faults[name] = "it offers no CPU, so nothing is started on it"
        return Fleet(hosts, labels=labels, faults=faults)


def _named(nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return nodes by their names: the label's value, else the machine's name where it is unique, else their ids."""
    machines = Counter(node["NodeManagerHostname"] for node in nodes)
    labels = Counter(node["Labels"].get(NODE_LABEL) for node in nodes)
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        label, machine = node["Labels"].get(NODE_LABEL), node["NodeManagerHostname"]
        if label and labels[label] > 1:
            raise FleetError(f"{labels[label]} nodes of the cluster have the label `{NODE_LABEL}={label}`")
        found[label or (machine if machines[machine] == 1 else node["Labels"][NODE_ID])] = node
    return found


def _ask(ray: Any, node: dict[str, Any]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    # A task without GPUs must see them all the same.
    shown = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
    options = {"num_cpus": 0, "max_retries": 0, "runtime_env": shown, "scheduling_strategy": here}
    return ray.remote(_look).options(**options).remote()


def _look() -> str:
    """Return the host of the node that this runs on, as TOML."""
    return Host.probe().to_toml()
