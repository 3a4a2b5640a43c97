"""Disagreements between a machine and the libraries on it.

Owns the rules, each for one kind of disagreement with a suggestion. A pure function of the reports, so that every
machine can be diagnosed on any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.doctor.suggestions import suggestion
from devpolicy._core.errors import Diagnostic
from devpolicy._core.host.probe.devices import TOOLKITS
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from devpolicy._core.doctor.library_report import LibraryReport
    from devpolicy._core.host import Accelerator, Host

TOLERANCE = 1.1
"""Totals differ a little: drivers reserve memory, and count it or not."""

_SELECTORS = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}
_SWITCHES = {
    "accelerate": ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"),
    "haystack": ("HAYSTACK_MPS_ENABLED", "HAYSTACK_XPU_ENABLED"),
}
_MODULES = {"nvml": "pynvml", "sentence-transformers": "sentence_transformers"}
_BUILDS = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True, slots=True)
class _Case:
    """The input of the rules."""

    host: Host
    reports: Mapping[str, LibraryReport]
    variables: Mapping[str, str]

    @property
    def torch(self) -> LibraryReport | None:
        """Torch's report; `None` if it is not installed or did not answer."""
        report = self.reports.get("torch")
        return None if report is None or report.version is None or report.fault else report

    def shows(self, kind: str) -> bool:
        """Whether the machine shows anything of a type of accelerator, even if only that it is broken."""
        nvml = self.reports.get("nvml")
        counted = kind == "cuda" and nvml is not None and bool(nvml.devices)
        return bool(self.host.devices(kind) or self.host.fault(kind) or counted)

    def kinds(self) -> list[str]:
        """Return the types of accelerators that the machine shows."""
        return [kind for kind in ("cuda", "xpu", "mps", "npu", "hpu") if self.shows(kind)]

    def unbuilt(self, kind: str) -> bool:
        """Whether torch, as built, cannot know a type."""
        needed = TOOLKITS.get(kind)
        torch = self.torch
        # Where torch counts devices all the same, it is one of a simulated machine.
        return bool(
            torch and needed and torch.built_for is not None and not needed & torch.built_for and not torch.count(kind)
        )


def diagnose(host: Host, reports: Mapping[str, LibraryReport], variables: Mapping[str, str]) -> list[Diagnostic]:
    """Return the findings, each with a suggestion: libraries that did not answer first, differing choices last.

    `reports` is by library (`library_report.LIBRARIES`), `variables` those of the environment that are set.
    """
    case = _Case(host, reports, variables)
    rules = (_unanswered, _without_torch, _unusable, _hidden, _counts, _broken, _warnings, _choices, _memory)
    findings: dict[str, Diagnostic] = {}
    for rule in rules:
        for finding in rule(case):
            findings.setdefault(finding.message, finding)
    return list(findings.values())


def _unanswered(case: _Case) -> Iterator[Diagnostic]:
    """Libraries and sources that did not answer."""
    for library, report in case.reports.items():
        # Without a sign of an NVIDIA GPU it is no fault that there is no driver to ask.
        if report.fault and (library != "nvml" or case.shows("cuda")):
            yield _unasked(library, report.fault)
    for source, why in case.host.faults:
        told_of = case.reports.get(source)
        if source in ("nvml", "psutil", "disk", "torch") and not (told_of and told_of.fault):
            yield _unasked(source, why)


def _unasked(source: str, why: str) -> Diagnostic:
    module = _MODULES.get(source, source)
    general = f"run `python -c 'import {module}'` to see it in full" if source != "disk" else "name another folder"
    return Diagnostic("DP601", f"`{source}` cannot be asked: {why}", help=suggestion(why, module) or general)


def _without_torch(case: _Case) -> Iterator[Diagnostic]:
    """Accelerators that no torch here can know."""
    report = case.reports.get("torch")
    # Every processor of Intel with graphics shows signs of xpu: alone, or beside what torch uses, it is no loss.
    kinds = [kind for kind in case.kinds() if kind != "xpu" or case.host.devices(kind)]
    if report is not None and report.version is None and kinds:
        message = f"the machine has {_named(case, kinds)}, and torch is not installed"
        yield Diagnostic("DP602", message, help=f"install a torch that is built for it: {_BUILDS}")
    torch = case.torch
    for kind in case.kinds() if torch else ():
        elsewhere = torch and any(one.type != kind for one in torch.devices or ())
        if torch is None or not case.unbuilt(kind) or (kind not in kinds and elsewhere):
            continue
        toolkit = {"cuda": "CUDA", "xpu": "XPU"}[kind]
        has = f"has {_named(case, [kind])}" if kind in kinds else f"may have a device of `{kind}`"
        message = f"the machine {has}, and torch {torch.version} is built without {toolkit}"
        hint = f"install a build with {toolkit}{' (ROCm for AMD)' if kind == 'cuda' else ''}: {_BUILDS}"
        yield Diagnostic("DP602", message, help=hint, severity="error" if kind in kinds else "warning")


def _named(case: _Case, kinds: Sequence[str]) -> str:
    nvml = case.reports.get("nvml")
    named = []
    for kind in kinds:
        devices: Sequence[Accelerator] = case.host.devices(kind)
        if kind == "cuda" and not devices and nvml is not None:
            devices = nvml.devices or ()
        named.append(f"{len(devices)} `{kind}` device{'' if len(devices) == 1 else 's'}" if devices else f"`{kind}`")
    return " and ".join(named)


def _unusable(case: _Case) -> Iterator[Diagnostic]:
    """Types of which no device works, though the machine shows some."""
    for kind in case.kinds():
        why = dict(case.torch.faults).get(kind) if case.torch else None
        why = why or case.host.fault(kind)
        if why and not case.unbuilt(kind) and not (case.torch and case.torch.count(kind)):
            help_ = suggestion(why) or f"ask the driver itself; until then, `prefer` something else than `{kind}`"
            yield Diagnostic("DP605", f"nothing of `{kind}` can be used: {why}", help=help_)


def _hidden(case: _Case) -> Iterator[Diagnostic]:
    """GPUs of the machine that this process may not see."""
    nvml = case.reports.get("nvml")
    setting = case.variables.get("CUDA_VISIBLE_DEVICES")
    if nvml is None or not nvml.devices or setting is None or case.unbuilt("cuda"):
        return
    everything, seen = len(nvml.devices), len(case.host.devices("cuda"))
    if seen < everything:
        message = f"`CUDA_VISIBLE_DEVICES={setting}` hides {everything - seen} of {everything} GPUs"
        hint = "unset it where this is not meant" if seen else "`nvidia-smi -L` lists what it can name"
        note = "the list ends at the first entry that names no GPU, and an entry that comes twice empties it"
        yield Diagnostic("DP603", message, notes=(note,), help=hint, severity="warning")


def _counts(case: _Case) -> Iterator[Diagnostic]:
    """Devices that one counts and another does not."""
    torch = case.torch
    if torch is None:
        return
    for kind in case.kinds():
        ours, theirs = len(case.host.devices(kind)), torch.count(kind)
        if ours != theirs and not case.unbuilt(kind) and not dict(torch.faults).get(kind):
            message = f"torch counts {theirs} `{kind}` device{'' if theirs == 1 else 's'}, and devpolicy {ours}"
            selector = _SELECTORS.get(kind)
            hint = f"set `{selector}` to those that are meant" if selector else "name the device: `prefer` takes an id"
            yield Diagnostic("DP604", message, help=hint)
    accelerate = case.reports.get("accelerate")
    if accelerate is None or accelerate.devices is None or accelerate.fault:
        return
    for kind in dict.fromkeys(one.type for one in torch.devices or ()):
        known = {one.id for one in accelerate.devices if one.type == kind}
        missing = [f"{kind}:{one.id}" for one in torch.devices or () if one.type == kind and one.id not in known]
        # Of several types it takes one; `_choices` reports that it takes another than torch.
        if missing and (known or _type(accelerate.choice) == kind):
            message = (
                f"accelerate leaves out {_list(missing)}, and torch counts {'it' if len(missing) == 1 else 'them'}"
            )
            note = '`device_map="auto"` then places nothing there, and says so nowhere'
            hint = f"it makes a tensor on each device first: try `torch.zeros(1, device='{missing[0]}')`"
            yield Diagnostic("DP604", message, notes=(note,), help=hint)


def _broken(case: _Case) -> Iterator[Diagnostic]:
    """Single devices that are counted and do not work."""
    report: dict[str, tuple[str, str]] = {}
    for one in (*case.host.accelerators, *((case.torch.devices or ()) if case.torch else ())):
        if one.fault:
            report.setdefault(f"{one.type}:{one.id}", (one.type, one.fault))
    for device, (kind, why) in report.items():
        selector = _SELECTORS.get(kind)
        general = f"leave it out of `{selector}`" if selector else f"`prefer` something else than `{kind}`"
        yield Diagnostic("DP605", f"`{device}` does not work: {why}", help=suggestion(why) or general)


def _warnings(case: _Case) -> Iterator[Diagnostic]:
    """Warnings with a known fix, unless their cause was already reported as a fault."""
    faults = [why for _, why in case.host.faults]
    faults += [why for report in case.reports.values() for _, why in report.faults]
    known = {suggestion(why) for why in faults}
    for library, report in case.reports.items():
        for text in report.warnings:
            advice = suggestion(text, _MODULES.get(library, library))
            if advice and advice not in known:
                known.add(advice)
                yield Diagnostic("DP605", f"`{library}` warns: {text}", help=advice, severity="warning")


def _choices(case: _Case) -> Iterator[Diagnostic]:
    """Libraries that would run somewhere else than torch's own choice."""
    if case.torch is None or case.torch.choice is None:
        return
    ours = case.torch.choice
    for library, report in case.reports.items():
        if report.choice is None or _device(report.choice) == _device(ours):
            continue
        message = f"{library} would use `{report.choice}`, and torch `{ours}`"
        switch = next((name for name in _SWITCHES.get(library, ()) if name in case.variables), None)
        if switch:
            hint = f"`{switch}={case.variables[switch]}` is set: unset it where this is not meant"
        else:
            # What a library lacks for its GPU is known for CUDA alone.
            known = suggestion(report.why) if report.why and _type(ours) == "cuda" else None
            hint = known or "name the device for each: `devpolicy resolve POLICY --to …` prints it"
        yield Diagnostic(
            "DP606", message, notes=(f"it says: {report.why}",) if report.why else (), help=hint, severity="warning"
        )


def _memory(case: _Case) -> Iterator[Diagnostic]:
    """Memory that is counted and that this process cannot have."""
    host, psutil = case.host, case.reports.get("psutil")
    if psutil is not None and psutil.ram is not None and host.memory and psutil.ram > host.memory * TOLERANCE:
        message = f"psutil sees {format_size(psutil.ram)} of RAM, and this process may have {format_size(host.memory)}"
        note = 'a control group sets the limit; `device_map="auto"` plans with psutil\'s figure, and is then killed'
        hint = "give `max_memory` a `cpu` below the limit, or plan with devpolicy, which knows it"
        yield Diagnostic("DP607", message, notes=(note,), help=hint, severity="warning")
    for one in (case.torch.devices or ()) if case.torch else ():
        ours = next((other for other in host.devices(one.type) if other.id == one.id), None)
        if ours is None or ours.fault or one.fault or not (ours.memory and one.memory):
            continue
        if max(ours.memory, one.memory) > min(ours.memory, one.memory) * TOLERANCE:
            of_torch, of_host = format_size(one.memory), format_size(ours.memory)
            message = f"torch gives `{one.type}:{one.id}` {of_torch}, and the driver {of_host}"
            hint = "they may count devices in another order: set `CUDA_DEVICE_ORDER=PCI_BUS_ID`"
            yield Diagnostic("DP607", message, help=hint, severity="warning")


def _type(device: str | None) -> str:
    return _device(device or "")[0]


def _device(text: str) -> tuple[str, int]:
    """Return the device of a library's text, to compare: `cuda` is `cuda:0`. It may be one that we do not know."""
    kind, _, index = text.partition(":")
    return kind, int(index) if index.isdecimal() else 0


def _list(words: Sequence[str]) -> str:
    return " and ".join(f"`{word}`" for word in words)
