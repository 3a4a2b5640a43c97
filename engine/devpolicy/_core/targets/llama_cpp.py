"""A plan in the form that llama.cpp takes, and what is built on it: Ollama, llama-cpp-python.

Owns its flags and the equal `LLAMA_ARG_*` variables. llama.cpp counts layers: the last N of all layers and the head are
on accelerators, in runs, in the order in which devices are named. What a plan has elsewhere is an override of tensors
by a regular expression, of which the first that is found in a tensor's name decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.placement.computing import layer_devices, layer_of
from devpolicy._core.placement.plan import Plan

CACHE_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""llama.cpp's name of what a KV cache may be kept in, by ours."""

TARGET = "llama.cpp"
_NORM = "output_norm"
"""What is overridden to be where it is, where pipelining is to be off: not the embedding, which the head may share."""
MOST_DEVICES = 15
"""llama.cpp takes a tensor split of fewer numbers than its 16 devices."""

_PREFIX = {"cuda": "CUDA", "xpu": "SYCL", "mps": "MTL"}
_GROUPS = {"attn": "attn_.*", "ffn": "ffn_.*", "exps": "ffn_.*_exps?", "shexp": "ffn_.*_shexp", "ssm": "ssm_.*"}
_GROUPS |= {"time": "time_mix_.*", "shortconv": r"shortconv\..*"}
"""What the tensors of a group of a block are called, from `blk.N.` on."""


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """What llama.cpp is told of a plan."""

    order: tuple[str, ...]
    """The plan's names of the devices, in the order in which they take layers."""
    devices: tuple[str, ...]
    """Its names of the devices, in the order in which they take layers; empty for the CPU alone."""
    gpu_layers: int
    """How many of the last layers, the head counted as one, are on devices."""
    split: tuple[int, ...]
    """How many of them each device takes."""
    overrides: tuple[tuple[str, str], ...]
    """Pairs of a regular expression and a buffer type: tensors that are not where their layer is."""
    context: int
    """Tokens of all sequences together."""
    sequences: int
    cache_type: str
    cache_on_cpu: bool = False
    """Whether all of the KV cache is in RAM."""

    def to_flags(self) -> list[str]:
        """Return the arguments of a command such as `llama-server`."""
        flags = ["--device", ",".join(self.devices) or "none", "--gpu-layers", str(self.gpu_layers)]
        if len(self.devices) > 1 and any(self.split):
            flags += ["--split-mode", "layer", "--tensor-split", ",".join(map(str, self.split))]
        for pattern, place in self.overrides:
            flags += ["--override-tensor", f"{pattern}={place}"]
        flags += ["--ctx-size", str(self.context), "--parallel", str(self.sequences)]
        flags += ["--cache-type-k", self.cache_type, "--cache-type-v", self.cache_type]
        return [*flags, *(["--no-kv-offload"] if self.cache_on_cpu else []), "--fit", "off"]

    def to_env(self) -> dict[str, str]:
        """Return the same as variables, which `llama-server` reads and Ollama hands on to it."""
        env = {"LLAMA_ARG_DEVICE": ",".join(self.devices) or "none", "LLAMA_ARG_N_GPU_LAYERS": str(self.gpu_layers)}
        if len(self.devices) > 1 and any(self.split):
            env |= {"LLAMA_ARG_SPLIT_MODE": "layer", "LLAMA_ARG_TENSOR_SPLIT": ",".join(map(str, self.split))}
        if self.overrides:
            env["LLAMA_ARG_OVERRIDE_TENSOR"] = ",".join(f"{pattern}={place}" for pattern, place in self.overrides)
        if self.cache_on_cpu:
            env["LLAMA_ARG_KV_OFFLOAD"] = "0"
        return env | {
            "LLAMA_ARG_CTX_SIZE": str(self.context),
            "LLAMA_ARG_N_PARALLEL": str(self.sequences),
            "LLAMA_ARG_CACHE_TYPE_K": self.cache_type,
            "LLAMA_ARG_CACHE_TYPE_V": self.cache_type,
            "LLAMA_ARG_FIT": "off",
        }


def to_llama_cpp(plan: Plan, names: Mapping[str, str] | None = None) -> LlamaCppSettings:
    """Return what llama.cpp is told of a plan for a GGUF file.

    `names` are its names of devices by ours, where they are not those of its CUDA, SYCL and Metal backends: `ROCm0`,
    `Vulkan1`. Raises `Unsatisfiable` (DP404) where the plan has what it cannot be told.
    """
    used = [Device.from_str(device) for device in plan.ledger if device not in ("cpu", "disk")]
    place = {**device_names(used), **(names or {}), "cpu": "CPU"}
    units = {path: str(unit.runs_on) for path, unit in plan.placements.items()}
    layers = [device for _, device in layer_devices(units).items()]
    if units and not layers and not any(map(_is_input, units)):
        raise Unsatisfiable(_no_model())
    # The head is one more layer: where the plan has it decides which device the last unit goes to.
    head = units.get("output", units.get("output_norm", layers[-1] if layers else "cpu"))
    runs = _runs([*layers, head if _follows(layers, head) else layers[-1] if layers else head])
    first = runs[0][1] if runs and runs[0][0] == "cpu" else 0
    on_devices = [(device, count) for device, count in runs if device != "cpu"]
    # A device that has parts of layers alone must be named as well, or nothing can compute there.
    named = {device for device, _ in on_devices}
    on_devices += [(device, 0) for device in sorted(set(units.values()) - named - {"cpu"})]
    if len(on_devices) > MOST_DEVICES:
        message = f"`llama.cpp` takes {MOST_DEVICES} devices, and the plan uses {len(on_devices)}"
        raise Unsatisfiable(Diagnostic("DP404", message, help='ask for fewer: `{ device = "cuda", count = 15 }`'))
    workload = plan.workload
    if workload is None or plan.target != TARGET:
        raise Unsatisfiable(_not_for_it(plan))
    # llama.cpp works on several micro-batches at once where nothing is overridden.
    alone = () if workload.pipelined else ((rf"^{_NORM}\.", place[units.get(_NORM, head)]),)
    return LlamaCppSettings(
        order=tuple(device for device, _ in on_devices),
        devices=tuple(place[device] for device, _ in on_devices),
        gpu_layers=len(layers) + 1 - first if on_devices else 0,
        split=tuple(count for _, count in on_devices),
        overrides=tuple(_overrides(units, layers, runs[-1][0] if runs else "cpu", place)) or alone,
        context=workload.context * workload.batch,
        sequences=workload.batch,
        cache_type=CACHE_TYPES[workload.kv_dtype],
        cache_on_cpu=workload.kv_offload == "cpu",
    )


def to_llama_cpp_python(plan: Plan) -> dict[str, Any]:
    """Return the keyword arguments of llama-cpp-python's `Llama`, which takes a part of what llama.cpp does.

    Raises `Unsatisfiable` (DP404) where a plan needs more: devices in another order than that of their ids, or
    tensors apart from their layers. `to_llama_cpp` has them.
    """
    told = to_llama_cpp(plan)
    ids = [Device.from_str(device).id or 0 for device in told.order]
    if told.overrides:
        missing = "to keep tensors apart from their layer (`--override-tensor`)"
    elif ids != sorted(ids):
        missing = f"to use devices in the order {', '.join(told.devices)} (`--device`)"
    else:
        split = [0.0] * (max(ids, default=0) + 1)
        for device, count in zip(ids, told.split, strict=True):
            split[device] = float(count)
        cached = {"type_k": _GGML_TYPES[told.cache_type], "type_v": _GGML_TYPES[told.cache_type]}
        placing = {"split_mode": 1, "tensor_split": split} if told.devices else {}
        cached |= {"offload_kqv": False} if told.cache_on_cpu else {}
        return {"n_gpu_layers": told.gpu_layers, "n_ctx": told.context, **placing, **cached}
    help_ = "run llama-server with `--to llama.cpp`, or let the policy ask for less"
    raise Unsatisfiable(Diagnostic("DP404", f"llama-cpp-python has no way {missing}", help=help_))


_GGML_TYPES = {"f32": 0, "f16": 1, "bf16": 30}


def _no_model() -> Diagnostic:
    message = "the file has neither layers nor an embedding as llama.cpp names them, so it is no model that it loads"
    help_ = "plan the model that it belongs to; llama.cpp loads a projector beside it, with `--mmproj`"
    return Diagnostic("DP404", message, help=help_)


def _not_for_it(plan: Plan) -> Diagnostic:
    message = f"the plan was made for `{plan.target}`, which places a model in other ways than llama.cpp"
    return Diagnostic("DP409", message, help='plan the GGUF file with `target = "llama.cpp"`, or `--target llama.cpp`')


def device_names(devices: Sequence[Device], amd: Sequence[bool] = (), *, renumbered: bool = False) -> dict[str, str]:
    """Return llama.cpp's names of devices; with `renumbered` those that they have where no others are visible."""
    found: dict[str, str] = {}
    for at, device in enumerate(devices):
        prefix = _PREFIX.get(device.type.value, device.type.value.upper())
        number = at if renumbered else device.id or 0
        found[str(device)] = f"{'ROCm' if at < len(amd) and amd[at] else prefix}{number}"
    return found


def _follows(layers: list[str], head: str) -> bool:
    """Whether the head can be the unit behind the last layer: there, or on a device that has no layers."""
    return bool(layers) and (head == layers[-1] or (head != "cpu" and head not in layers))


def _runs(devices: list[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for device in devices:
        if runs and runs[-1][0] == device:
            runs[-1] = device, runs[-1][1] + 1
        else:
            runs.append((device, 1))
    return runs


def _overrides(
    units: Mapping[str, str], layers: list[str], head: str, place: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the overrides: of the input, of the head, then of parts of layers, the narrower ones first."""
    for path, device in units.items():
        if layer_of(path) is None:
            own = "cpu" if _is_input(path) else layers[0] if layers and _with_first_layer(path, units) else head
            if path not in ("rope_freqs",) and device != own:
                yield rf"^{re.escape(path)}\.", place[device]
    found: dict[tuple[int, str, str], list[int]] = {}
    for layer, parts in _parts(units).items():
        for depth, pattern, device in _of_layer(parts, layers[layer]):
            found.setdefault((-depth, pattern, device), []).append(layer)
    for (_, pattern, device), numbers in sorted(found.items(), key=lambda entry: entry[0][:2]):
        # No comma may stand in a pattern: alternatives, and no counted repetition.
        yield rf"^blk\.({'|'.join(map(str, numbers))})\.{pattern}\.", place[device]


def _is_input(path: str) -> bool:
    return path in ("token_embd", "position_embd", "token_types", "per_layer_token_embd")


def _with_first_layer(path: str, units: Mapping[str, str]) -> bool:
    """Whether the first layer takes a tensor along: a norm behind the embedding, which some files call the last one."""
    return path == "token_embd_norm" and ("output_norm" in units or "output" not in units)


def _parts(units: Mapping[str, str]) -> dict[int, dict[str, str]]:
    parts: dict[int, dict[str, str]] = {}
    for path, device in units.items():
        at = layer_of(path)
        if at is not None:
            parts.setdefault(at[0], {})[at[1]] = device
    return dict(sorted(parts.items()))


def _of_layer(parts: Mapping[str, str], layer: str) -> Iterator[tuple[int, str, str]]:
    """Yield how narrow an override is, its pattern and its device, for the parts that are not where the layer is.

    A part that is where the layer is needs one too where a wider pattern, which is found later, matches its tensors.
    """
    away = {part: device for part, device in parts.items() if device != layer}
    wide = [re.compile(_pattern(part)) for part in away if part.rpartition(".")[2] in _GROUPS]
    for part, device in parts.items():
        depth = (part.count(".") + 1) * 2 - (part.rpartition(".")[2] in _GROUPS)
        covered = any(one.fullmatch(part.rpartition(".")[2]) or _inside(part, one) for one in wide)
        if part in away or covered:
            yield depth, _pattern(part), device


def _inside(part: str, wider: re.Pattern[str]) -> bool:
    """Whether the tensors of a group are among those of a wider one: the experts among those of `ffn`."""
    return part.rpartition(".")[2] in ("exps", "shexp") and wider.pattern == _GROUPS["ffn"]


def _pattern(part: str) -> str:
    """Return the pattern of a part's tensors behind `blk.N.`; parts of a group are named by themselves."""
    last = part.rpartition(".")[2]
    return _GROUPS.get(last, re.escape(last))
