"""An engine of pipeline stages: it is told its GPUs, in order, and how many layers each runs."""

from __future__ import annotations

import re

from devpolicy import Host, Plan
from devpolicy.targets import Abilities, Target


def stages(plan: Plan, host: Host) -> dict[str, object]:
    """Return the engine's settings for a plan."""
    layers: dict[str, int] = {}
    for path, unit in plan.placements.items():
        device = str(unit.runs_on)
        layers[device] = layers.get(device, 0) + bool(re.fullmatch(r".*\.\d+", path))
    settings: dict[str, object] = {"devices": list(layers), "layers": list(layers.values())}
    if plan.workload is not None:
        settings |= {"context": plan.workload.context, "sequences": plan.workload.batch}
    return settings


STAGES = Target(
    "stages",
    Abilities(
        types=frozenset({"cuda"}),
        unit="layer",
        assigns="counts",
        runs_per_device=1,
        cache="engine",
        carries=frozenset({"context", "batch"}),
    ),
    instead="leave the rule out: the engine runs whole layers on GPUs",
    about="an engine of pipeline stages",
    forms={"stages": stages},
)
