"""The devices of a plan as a child process is told of them: by variables of its environment.

Owns `CUDA_VISIBLE_DEVICES` and its likes. A driver numbers what is visible anew, from 0, in the order of the variable;
so what an engine is told by its own numbers is said for that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.host.facts import is_amd
from devpolicy._core.memory.budgets import accelerator_of
from devpolicy._core.placement.plan import Plan


def used_devices(plan: Plan) -> list[Device]:
    """Return the accelerators that a plan uses, in the order of their ids."""
    named = (Device.from_str(device) for device in plan.ledger)
    return [device for device in named if device.type.value not in ("cpu", "disk")]


def visible_devices(devices: Iterable[Device], host: Host) -> dict[str, str]:
    """Return the variables by which a process sees these accelerators of a host and no others, in this order.

    CUDA and HIP take UUIDs where all are known, else the driver's indices; without either, torch's own numbers, which
    are the driver's as long as nothing hides devices. Raises `Unsatisfiable` for devices of a kind that no variable
    names.
    """
    ones = [accelerator(device, host) for device in devices]
    shown = _shown(ones)
    # What a host has of other kinds is hidden; so is CUDA, for the CPU alone.
    hidden = {_variable(one): _NONE[_variable(one)] for one in host.accelerators if one.type in ("cuda", "xpu")}
    return {**({} if ones else {"CUDA_VISIBLE_DEVICES": ""}), **hidden, **shown}


_NONE = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "-1", "ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
"""What hides all devices of a kind. HIP takes an empty variable for none, and shows all."""


def _variable(one: Accelerator) -> str:
    if one.type == "xpu":
        return "ONEAPI_DEVICE_SELECTOR"
    return "HIP_VISIBLE_DEVICES" if is_amd(one.name) else "CUDA_VISIBLE_DEVICES"


def _shown(ones: Sequence[Accelerator]) -> dict[str, str]:
    kinds = {one.type for one in ones}
    if not ones or kinds == {"mps"}:
        return {}  # Apple's one GPU is always visible
    if kinds == {"cuda"}:
        name = "HIP_VISIBLE_DEVICES" if all(is_amd(one.name) for one in ones) else "CUDA_VISIBLE_DEVICES"
        uuids = [one.uuid for one in ones]
        listed = [str(uuid) for uuid in uuids] if all(uuids) else [str(_index(one)) for one in ones]
        order = {} if all(uuids) or name != "CUDA_VISIBLE_DEVICES" else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return {**(order if all(one.physical is not None for one in ones) else {}), name: ",".join(listed)}
    if kinds == {"xpu"}:
        return {"ONEAPI_DEVICE_SELECTOR": "level_zero:" + ",".join(str(_index(one)) for one in ones)}
    message = f"no variable shows a process `{ones[0].type}` devices alone"
    raise Unsatisfiable(Diagnostic("DP409", message, help="hand the plan over in the target's own form: `--to`"))


def environment(plan: Plan, host: Host) -> dict[str, str]:
    """Return the variables of a process that runs what was planned: its devices, and what its engine reads."""
    if plan.target == "llama.cpp":
        from devpolicy._core.targets.llama_cpp import to_llama_cpp

        names = llama_cpp_names(plan, host)
        order = [Device.from_str(name) for name in names]
        return {**visible_devices(order, host), **to_llama_cpp(plan, names).to_env()}
    if plan.target in ("vllm", "sglang", "ktransformers"):
        from devpolicy._core.targets.stages import stage_environment

        devices, variables = stage_environment(plan, host)
        return {**visible_devices(devices, host), **variables}
    return visible_devices(used_devices(plan), host)


def llama_cpp_names(plan: Plan, host: Host) -> dict[str, str]:
    """Return what llama.cpp calls the devices of a plan where it sees no others, in the order in which it sees them."""
    from devpolicy._core.targets.llama_cpp import device_names, to_llama_cpp

    order = [Device.from_str(name) for name in to_llama_cpp(plan, {}).order]
    if order and order[0].type.value == "xpu":  # versions differ in whether the selector gives an order
        order.sort(key=lambda device: device.id or 0)
    return device_names(order, [is_amd(accelerator(device, host).name) for device in order], renumbered=True)


def shell(variables: Mapping[str, str]) -> str:
    """Return the lines by which a POSIX shell sets variables."""
    import shlex

    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def accelerator(device: Device, host: Host) -> Accelerator:
    """Return the accelerator that a plan calls so. Raises `Unsatisfiable` (DP301) where the host has none."""
    found = accelerator_of(device, host)
    if found is None:
        raise Unsatisfiable(Diagnostic("DP301", f"the host has no `{device}`", help="plan for this host"))
    return found


def _index(one: Accelerator) -> int:
    return one.physical if one.physical is not None else one.id or 0
