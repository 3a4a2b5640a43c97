"""From sources to accelerators: which source is queried for a type, and which one is believed.

Owns the order of sources: NVML first for NVIDIA GPUs, torch for all else and where NVML fails.
The sources are arguments, so this is a decision without any query of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from devpolicy._core.child_process import MALFORMED, ChildError, ChildTimeout
from devpolicy._core.errors import HostError
from devpolicy._core.host import MOST_DEVICES, Host
from devpolicy._core.host.probe import nvml as nvidia
from devpolicy._core.host.probe.probe_result import ProbeResult
from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from devpolicy._core.host import Accelerator
    from devpolicy._core.host.probe.system import Amount, TorchBuild

TYPE_OF = {"nvidia": "cuda", "amd": "cuda", "intel": "xpu", "ascend": "npu", "habana": "hpu", "apple": "mps"}
TOOLKITS = {"cuda": {"cuda", "hip"}, "xpu": {"xpu"}}
"""The toolkits of which torch needs one to know a type; other types come with the system, or with a plugin."""
PLUGINS = {"npu": "torch-npu", "hpu": "habana-torch-plugin"}


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of facts on a machine."""

    hardware_hints: frozenset[str]
    """Vendors whose hardware may be there (`hardware_hints.vendors`)."""
    ask_nvml: Callable[[], Mapping[str, Any]] | None
    """Returns the answer of `torch_probe.ask_nvml`; `None` without nvidia-ml-py. Raises `ChildError`."""
    torch: TorchBuild | None
    plugins: frozenset[str]
    """Which distributions of `PLUGINS` are installed."""
    ask_torch: Callable[[Sequence[str]], Mapping[str, ProbeResult]]
    """Returns torch's result for each type, and does not raise."""


def accelerators(sources: Sources, ram: Amount, environ: Mapping[str, str]) -> ProbeResult:
    """Return the accelerators of every type with a hardware hint, with the faults of sources that did not answer."""
    types = list(dict.fromkeys(TYPE_OF[sign] for sign in sorted(sources.hardware_hints)))
    found = {}
    if "nvidia" in sources.hardware_hints and sources.ask_nvml is not None:
        found["cuda"] = _by_nvml(sources, sources.ask_nvml, ram, environ)
    asked: list[str] = []
    refused: list[ProbeResult] = []
    for type_ in types:
        settled = found.get(type_)
        # NVML's failure is not torch's: the driver of a Jetson has no NVML, and CUDA works.
        if settled is not None and (settled.accelerators or settled.versions or dict(settled.faults).get("cuda")):
            continue
        why = unsupported_reason(type_, sources)
        if why:
            refused.append(ProbeResult(faults=((type_, why),)))
        else:
            asked.append(type_)
    told = sources.ask_torch(asked) if asked else {}
    return _together([*found.values(), *refused, *(_shared_memory(told[type_], ram) for type_ in asked)])


def unsupported_reason(type_: str, sources: Sources) -> str | None:
    """Return why torch, as installed, does not know a type; `None` where it does or may."""
    build = sources.torch
    if build is None:
        return "torch is not installed, and nothing else can be asked"
    needed = TOOLKITS.get(type_)
    if needed and build.toolkits is not None and not needed & build.toolkits:
        return f"torch {build.version} is built without {type_.upper()}"
    plugin = PLUGINS.get(type_)
    return f"{plugin} is not installed" if plugin and plugin not in sources.plugins else None


def _by_nvml(
    sources: Sources, ask: Callable[[], Mapping[str, Any]], ram: Amount, environ: Mapping[str, str]
) -> ProbeResult:
    try:
        told = ask()
        if "fault" in told:
            return ProbeResult(faults=(("nvml", one_line(told["fault"]) or "no reason was given"),))
        everything = nvidia.read(told, ram)
    except ChildTimeout as late:
        # The driver hangs, so torch would too.
        return ProbeResult(faults=(("cuda", str(late)), ("nvml", str(late))))
    except ChildError as none:
        return ProbeResult(faults=(("nvml", str(none)),))
    except MALFORMED:
        return ProbeResult(faults=(("nvml", "its answer makes no sense"),))
    missing = unsupported_reason("cuda", sources) if sources.torch else None
    answer = None
    if not missing and sources.torch and not nvidia.order_is_known(everything, environ):
        answer = nvidia.seen_in_order(everything, sources.ask_torch(["cuda"])["cuda"].accelerators)
    answer = answer or nvidia.seen(everything, environ)
    return replace(answer, faults=(("cuda", missing),)) if missing and answer.accelerators else answer


def _shared_memory(answer: ProbeResult, ram: Amount) -> ProbeResult:
    """A device that shares the machine's memory has no more free than the machine has."""
    limited = (
        replace(device, free=min(device.free, ram.free))
        if device.unified and not device.fault and ram.total
        else device
        for device in answer.accelerators
    )
    return replace(answer, accelerators=tuple(limited))


def _together(answers: Sequence[ProbeResult]) -> ProbeResult:
    faults: dict[str, str] = {}
    for answer in answers:
        for source, why in answer.faults:
            faults.setdefault(source, why)
    kept = [_countable(answer.accelerators, faults) for answer in answers]
    return ProbeResult(
        tuple(device for devices in kept for device in devices),
        tuple(version for answer in answers for version in answer.versions),
        tuple(faults.items()),
    )


def _countable(devices: Sequence[Accelerator], faults: dict[str, str]) -> Sequence[Accelerator]:
    """Return the devices of one source that a host can have. What is left out becomes a fault."""
    if not devices:
        return ()
    kind = devices[0].type
    if len(devices) > MOST_DEVICES:
        source = "nvml" if kind == "cuda" else "torch"
        faults.setdefault(
            source, f"it counts {len(devices)} devices, and torch the first {MOST_DEVICES}: these are kept"
        )
        devices = devices[:MOST_DEVICES]
    try:
        Host(devices, memory=0)
    except HostError as broken:
        faults.setdefault(kind, f"the driver's facts make no sense: {one_line(broken)}")
        return ()
    return devices
