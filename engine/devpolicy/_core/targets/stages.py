"""A plan in the form that vLLM and SGLang take: pipeline stages of whole layers.

Owns their flags and variables. Both take one fraction of the total memory for all GPUs and do with it as they see fit,
so the smallest card rules: where the fraction that one needs is more than another may give, the plan is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.placement.plan import Plan
from devpolicy._core.targets.environment import accelerator

_THOUSAND = 1000
_LAYER = re.compile(r"(.*)\.(\d+)(\..*)?")
_KV = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "float16": "float16", "bfloat16": "bfloat16"}
"""vLLM's name of what a KV cache may be kept in, by ours."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What an engine of pipeline stages is told of a plan."""

    devices: tuple[Device, ...]
    """In the order of the layers."""
    layers: tuple[int, ...]
    """How many each device runs."""
    fraction: float
    """Of the total memory of each device, in thousandths."""
    context: int
    sequences: int
    dtype: str
    kv_dtype: str


def stages(plan: Plan, host: Host) -> Stages:
    """Return the stages of a plan. Raises `Unsatisfiable` (DP404, DP409) where it has what they cannot express."""
    if plan.workload is None or plan.target not in ("vllm", "sglang"):
        message = f"the plan was made for `{plan.target}`, which places a model in other ways"
        raise Unsatisfiable(Diagnostic("DP409", message, help="plan it with `--target vllm` or `--target sglang`"))
    counts: dict[str, int] = {}
    for device in _layers(plan):
        counts[device] = counts.get(device, 0) + 1
    if not counts:  # a model of one piece
        counts = {str(unit.runs_on): 0 for unit in plan.placements.values()}
    devices = tuple(map(Device.from_str, counts))
    return Stages(
        devices,
        tuple(counts.values()),
        _fraction(plan, host, devices),
        plan.workload.context,
        plan.workload.batch,
        plan.loading.dtype or plan.loading.model_dtype or "auto",
        plan.workload.kv_dtype,
    )


def vllm(plan: Plan, host: Host) -> dict[str, object]:
    """Return the arguments and variables of `vllm serve`."""
    told = stages(plan, host)
    many = len(told.devices) > 1
    arguments = ["--device-ids", ",".join(str(device.id or 0) for device in told.devices)]
    arguments += ["--pipeline-parallel-size", str(len(told.devices))] if many else []
    arguments += ["--gpu-memory-utilization", f"{told.fraction:.3f}", "--dtype", told.dtype]
    arguments += ["--max-model-len", str(told.context), "--max-num-seqs", str(told.sequences)]
    if told.kv_dtype != told.dtype:
        if told.kv_dtype not in _KV:
            raise Unsatisfiable(Diagnostic("DP416", f"vLLM keeps no KV cache in `{told.kv_dtype}`"))
        arguments += ["--kv-cache-dtype", _KV[told.kv_dtype]]
    return {"arguments": arguments, "env": _partition("VLLM_PP_LAYER_PARTITION", told)}


def sglang(plan: Plan, host: Host) -> dict[str, object]:
    """Return the arguments and variables of `sglang.launch_server`. Raises `Unsatisfiable` for devices out of order."""
    told = stages(plan, host)
    ids = [device.id or 0 for device in told.devices]
    steps = {later - one for one, later in pairwise(ids)}
    if len(steps) > 1 or any(step < 1 for step in steps):
        message = (
            f"SGLang takes GPUs at equal steps, and the plan uses {', '.join(map(str, told.devices))} in this order"
        )
        hint = "run it by `devpolicy run`, which shows it these GPUs alone and in this order"
        raise Unsatisfiable(Diagnostic("DP404", message, help=hint))
    return {"arguments": _sglang(told, ids), "env": _partition("SGLANG_PP_LAYER_PARTITION", told)}


def stage_environment(plan: Plan, host: Host) -> tuple[tuple[Device, ...], dict[str, str]]:
    """Return the devices in the order in which a process must see them, and the variables of the engine."""
    told = stages(plan, host)
    name = "VLLM_PP_LAYER_PARTITION" if plan.target == "vllm" else "SGLANG_PP_LAYER_PARTITION"
    return told.devices, _partition(name, told)


def _sglang(told: Stages, ids: Sequence[int]) -> list[str]:
    arguments = ["--base-gpu-id", str(ids[0]) if ids else "0"]
    if len(ids) > 1:
        arguments += ["--gpu-id-step", str(ids[1] - ids[0]), "--pp-size", str(len(ids))]
    arguments += ["--mem-fraction-static", f"{told.fraction:.3f}", "--dtype", told.dtype]
    return [*arguments, "--context-length", str(told.context), "--max-running-requests", str(told.sequences)]


def _partition(name: str, told: Stages) -> dict[str, str]:
    return {name: ",".join(map(str, told.layers))} if len(told.devices) > 1 else {}


def _layers(plan: Plan) -> list[str]:
    """Return the device of each layer: of the numbered modules that are most, as a model's blocks are."""
    families: dict[str, dict[int, str]] = {}
    for path, unit in plan.placements.items():
        found = _LAYER.fullmatch(path)
        if found:
            families.setdefault(found[1], {}).setdefault(int(found[2]), str(unit.runs_on))
    most = max(families.values(), key=len, default={})
    return [most[number] for number in sorted(most)]


def _fraction(plan: Plan, host: Host, devices: Sequence[Device]) -> float:
    """Return the fraction of its total that every GPU gives: what the fullest one needs, rounded up."""
    needs, gives = 0, _THOUSAND
    for device in devices:
        budget = plan.ledger[str(device)]
        total = accelerator(device, host).memory
        needs = max(needs, -(-(budget.used - budget.used_by_others) * _THOUSAND // total))
        gives = min(gives, (budget.cap - budget.headroom - budget.used_by_others) * _THOUSAND // total)
    if needs > gives:
        message = (
            f"one card needs {needs / 10:.1f}% of its memory, another may give {max(0, gives) / 10:.1f}%, and "
            f"`{plan.target}` takes one fraction for all"
        )
        raise Unsatisfiable(Diagnostic("DP404", message, help="use cards that are alike: `[devices.NAME]`, or `same`"))
    return needs / _THOUSAND
