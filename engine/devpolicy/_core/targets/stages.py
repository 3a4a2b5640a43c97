"""A plan in the form that vLLM and SGLang take: pipeline stages of whole layers, each on one GPU or a group of them.

Owns their flags and variables. Both take one fraction of the memory for all GPUs and do with it as they see fit,
so the smallest card rules: where the fraction that one needs is more than another may give, the plan is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.host.facts import is_amd
from devpolicy._core.placement.plan import Plan
from devpolicy._core.sizes import GIB
from devpolicy._core.targets.environment import accelerator

_THOUSAND = 1000
_LAYER = re.compile(r"(.*)\.(\d+)(\..*)?")
_EIGHT = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}
_KV = {"vllm": {**_EIGHT, "float16": "float16", "bfloat16": "bfloat16"}, "sglang": {**_EIGHT, "bfloat16": "bfloat16"}}
"""Their names of what a KV cache may be kept in, by ours."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What an engine of pipeline stages is told of a plan."""

    groups: tuple[tuple[Device, ...], ...]
    """The devices that share the layers of each stage, in the order of the layers."""
    layers: tuple[int, ...]
    """How many each stage runs."""
    fraction: float
    """Of the memory of each device, in thousandths: the total for vLLM, what is free at its start for SGLang."""
    context: int
    sequences: int
    dtype: str
    kv_dtype: str
    kept: int = 0
    """Bytes of weights of each device that stay on the CPU."""
    states: int = 0
    """For how many states of each recurrent layer SGLang has slots, the one that it adds by itself included."""
    gpu_experts: int | None = None
    """How many experts of each layer run on the GPU, where KTransformers runs the others on the CPU."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in the order of their ranks."""
        return tuple(device for group in self.groups for device in group)

    @property
    def tensor(self) -> int:
        """How many devices share a layer."""
        return len(self.groups[0]) if self.groups else 1


def stages(plan: Plan, host: Host) -> Stages:
    """Return the stages of a plan. Raises `Unsatisfiable` for what the engine does not run."""
    if plan.workload is None or plan.target not in ("vllm", "sglang", "ktransformers"):
        message = f"the plan was made for `{plan.target}`, which places a model in other ways"
        raise Unsatisfiable(Diagnostic("DP409", message, help="plan it with `--target vllm` or `--target sglang`"))
    counts: dict[str, int] = {}
    for device in _layers(plan):
        counts[device] = counts.get(device, 0) + 1
    if not counts:  # a model of one piece
        counts = {str(unit.runs_on): 0 for unit in plan.placements.values()}
    shared = {str(unit.runs_on): unit.group or (unit.runs_on,) for unit in plan.placements.values()}
    groups = tuple(shared[device] for device in counts)
    devices = [device for group in groups for device in group]
    dtype = plan.loading.dtype or plan.loading.model_dtype or "auto"
    _check_cards(plan.target, dtype, devices, host)
    return Stages(
        groups,
        tuple(counts.values()),
        _fraction(plan, host, devices),
        plan.workload.context,
        plan.workload.batch,
        dtype,
        plan.workload.kv_dtype,
        plan.kept_by_engine,
        plan.workload.states,
        plan.gpu_experts,
    )


def _check_cards(engine: str, dtype: str, devices: Sequence[Device], host: Host) -> None:
    """Raise `Unsatisfiable` where an engine ends with an error on a card: DP416 for a dtype, else DP409.

    Of `bfloat16` SGLang makes `float16` by itself, and runs on no card below compute capability 7.5.
    """
    for device in devices:
        card = accelerator(device, host)
        has = card.capability
        if has is None or is_amd(card.name):
            continue
        shown = f"`{device}` has {has[0]}.{has[1]}"
        if engine == "vllm" and dtype == "bfloat16" and has < (8, 0):
            message = f"vLLM computes in `bfloat16` from compute capability 8.0 on, and {shown}"
            raise Unsatisfiable(Diagnostic("DP416", message, help='`workload.dtype = "float16"`'))
        if engine != "vllm" and has < (7, 5):
            message = f"SGLang runs from compute capability 7.5 on, and {shown}"
            raise Unsatisfiable(Diagnostic("DP409", message, help="leave the card out: `avoid`"))


def vllm(plan: Plan, host: Host) -> dict[str, object]:
    """Return the arguments and variables of `vllm serve`."""
    told = stages(plan, host)
    arguments = ["--device-ids", ",".join(str(device.id or 0) for device in told.devices)]
    arguments += ["--tensor-parallel-size", str(told.tensor)] if told.tensor > 1 else []
    arguments += ["--pipeline-parallel-size", str(len(told.groups))] if len(told.groups) > 1 else []
    arguments += ["--gpu-memory-utilization", f"{told.fraction:.3f}", "--dtype", told.dtype]
    arguments += ["--max-model-len", str(told.context), "--max-num-seqs", str(told.sequences)]
    arguments += _cache("vllm", told)
    arguments += _kept(told)
    return {"arguments": arguments, "env": _partition("VLLM_PP_LAYER_PARTITION", told)}


def sglang(plan: Plan, host: Host) -> dict[str, object]:
    """Return the arguments and variables of `sglang.launch_server`, and what must have started before it.

    Raises `Unsatisfiable` for devices out of order.
    """
    told = stages(plan, host)
    ids = [device.id or 0 for device in told.devices]
    step = ids[1] - ids[0] if told.tensor > 1 else 1
    # The rank of a stage counts by ones, whatever the step of those that share its layers.
    made = [
        ids[0] + stage * told.tensor + rank * step for stage in range(len(told.groups)) for rank in range(told.tensor)
    ]
    if step < 1 or made != ids:
        message = f"SGLang takes GPUs that follow one another, and the plan uses {', '.join(map(str, told.devices))}"
        hint = "run it by `devpolicy run`, which shows it these GPUs alone and in this order"
        raise Unsatisfiable(Diagnostic("DP404", message, help=hint))
    after = {"starts_after": [*plan.starts_after]} if plan.starts_after else {}
    # Where the experts for the CPU are nobody but the user knows, and without the path SGLang takes no notice of them.
    after |= {"add": ["--kt-weight-path"]} if told.gpu_experts is not None else {}
    return {"arguments": _sglang(told, ids[0], step), "env": _partition("SGLANG_PP_LAYER_PARTITION", told), **after}


def stage_environment(plan: Plan, host: Host) -> tuple[tuple[Device, ...], dict[str, str]]:
    """Return the devices in the order in which a process must see them, and the variables of the engine."""
    told = stages(plan, host)
    name = "VLLM_PP_LAYER_PARTITION" if plan.target == "vllm" else "SGLANG_PP_LAYER_PARTITION"
    return told.devices, _partition(name, told)


def _sglang(told: Stages, first: int, step: int) -> list[str]:
    arguments = ["--base-gpu-id", str(first)]
    arguments += ["--gpu-id-step", str(step), "--tp-size", str(told.tensor)] if told.tensor > 1 else []
    arguments += ["--pp-size", str(len(told.groups))] if len(told.groups) > 1 else []
    arguments += ["--mem-fraction-static", f"{told.fraction:.3f}", "--dtype", told.dtype]
    arguments += ["--context-length", str(told.context), "--max-running-requests", str(told.sequences)]
    # Without a number it divides its memory by a ratio, which may leave no slot.
    arguments += ["--max-mamba-cache-size", str(told.states - 1)] if told.states else []
    return [*arguments, *_cache("sglang", told), *_kept(told)]


def _cache(engine: str, told: Stages) -> list[str]:
    if told.kv_dtype == told.dtype:
        return []
    if told.kv_dtype not in _KV[engine]:
        known = ", ".join(f"`{name}`" for name in _KV[engine])
        message = f"`{engine}` keeps no KV cache in `{told.kv_dtype}` beside a model in `{told.dtype}`"
        raise Unsatisfiable(Diagnostic("DP416", message, help=f"known are {known}"))
    return ["--kv-cache-dtype", _KV[engine][told.kv_dtype]]


def _kept(told: Stages) -> list[str]:
    if told.gpu_experts is not None:
        if told.dtype != "bfloat16":
            message = f"experts on the CPU were counted in `{told.dtype}`, and KTransformers keeps them in `bfloat16`"
            raise Unsatisfiable(Diagnostic("DP416", message, help='`workload.dtype = "bfloat16"`'))
        return ["--kt-num-gpu-experts", str(told.gpu_experts), "--kt-method", "BF16"]
    return ["--cpu-offload-gb", str(told.kept // GIB)] if told.kept else []


def _partition(name: str, told: Stages) -> dict[str, str]:
    return {name: ",".join(map(str, told.layers))} if len(told.groups) > 1 else {}


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
    """Return the fraction that every GPU gives, what the fullest one needs, rounded up.

    vLLM's is of a GPU's total, and covers all that it takes. SGLang's is of what is free when it starts, and covers
    weights and KV cache: what it computes with is in the rest.
    """
    needs, gives = 0, _THOUSAND
    for device in devices:
        budget, card = plan.ledger[str(device)], accelerator(device, host)
        rooms = budget.cap - budget.headroom - budget.used_by_others
        if plan.target == "vllm":
            asked, base = budget.used - budget.used_by_others, card.memory
        else:
            asked, base = budget.weights + budget.kv_cache, max(1, card.free - budget.used_by_others)
            rooms -= budget.activations
        needs = max(needs, -(-asked * _THOUSAND // base))
        gives = min(gives, rooms * _THOUSAND // base)
    if needs > gives:
        message = (
            f"one card needs {needs / 10:.1f}% of its memory, another may give {max(0, gives) / 10:.1f}%, and "
            f"`{plan.target}` takes one fraction for all"
        )
        raise Unsatisfiable(Diagnostic("DP404", message, help="use cards that are alike: `[devices.NAME]`, or `same`"))
    return needs / _THOUSAND
