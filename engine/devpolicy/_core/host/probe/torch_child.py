"""torch's and NVML's devices, as another process reports them.

Owns the commands that run the probes of `torch_probe`, and what their answers mean. This process keeps no context, and
imports no torch.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from devpolicy._core.child_process import MALFORMED, ChildError, ask, interpreter, time_limit
from devpolicy._core.host.probe.probe_result import ProbeResult, accelerator
from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence


def questions(source: str, timeout: float) -> list[str]:
    """Return the command that runs one of the probes of `torch_probe`, without its parameters. Raises `ChildError`."""
    script = resources.files("devpolicy._core.host.probe").joinpath("torch_probe.py").read_text(encoding="utf-8")
    # NVML's module needs nothing but the standard library, and is given its folder.
    flags = ["-I", "-S"] if source == "nvml" else []
    return [*interpreter(*flags, "-c", script), *time_limit(timeout), source]


def probe_in_child(
    types: Sequence[str], timeout: float, command: Sequence[str] | None = None
) -> dict[str, ProbeResult]:
    """Return torch's result for each type of accelerator. Costs the import of torch, seconds, in a child.

    `command` is by default this interpreter with the questions of `devpolicy._core.host.probe.torch_probe`.
    """
    try:
        told = ask([*(questions("torch", timeout) if command is None else command), *types], timeout)
        return {type_: read_result(type_, told[type_]) for type_ in types}
    except ChildError as none:
        why = str(none)
    except MALFORMED:
        why = "its answer makes no sense"
    return {type_: ProbeResult(faults=((type_, why),)) for type_ in types}


def read_result(type_: str, told: dict[str, Any]) -> ProbeResult:
    """Return the result for one type in the answer of `torch_probe.answers`."""
    if "fault" in told:
        return ProbeResult(faults=((type_, one_line(told["fault"]) or "no reason was given"),))
    return ProbeResult(tuple(accelerator(type_, facts) for facts in told["devices"]))
