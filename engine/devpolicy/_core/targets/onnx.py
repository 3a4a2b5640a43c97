"""A plan in the form that ONNX Runtime takes, and sentence-transformers' and Optimum's models on it.

Owns the ordered execution providers, and the look at a session that was made: a provider that is missing is replaced
by the CPU with a warning, and a session says nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devpolicy._core.device import Device
from devpolicy._core.errors import DevPolicyError, Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.host.facts import is_amd
from devpolicy._core.placement.plan import Plan
from devpolicy._core.targets.environment import accelerator

TARGET = "onnx"
CPU = "CPUExecutionProvider"

Options = dict[str, str | int]

_FOR = {
    "cuda": ("CUDAExecutionProvider", "TensorrtExecutionProvider", "MIGraphXExecutionProvider"),
    "xpu": ("OpenVINOExecutionProvider",),
    "mps": ("CoreMLExecutionProvider",),
    "cpu": (CPU,),
}
"""The providers that run on a type of device; the first is asked for, on AMD's the last."""


def onnx_providers(plan: Plan, host: Host) -> list[tuple[str, Options]]:
    """Return `providers=` of an `InferenceSession`, the planned device's first.

    The CPU's is always the last: ONNX Runtime runs there what a provider has no kernel for. The memory limit of CUDA is
    what the plan holds; where activations are not known, it is all that the policy leaves. Raises `Unsatisfiable`
    (DP409) for a plan of several devices.
    """
    device = _device(plan)
    provider, options = _provider(device, plan, host)
    return [(provider, options), *([] if provider == CPU else [(CPU, Options())])]


def onnx_model_kwargs(plan: Plan, host: Host) -> dict[str, Any]:
    """Return the arguments of `SentenceTransformer` for its onnx backend, whose `device` chooses no provider."""
    provider, options = _provider(_device(plan), plan, host)
    chosen = {"provider": provider, **({"provider_options": options} if options else {})}
    return {"backend": "onnx", "model_kwargs": chosen}


def check_providers(session: Any, plan: Plan) -> None:
    """Raise `Unsatisfiable` (DP424) where a session does not run on the plan's device.

    `session` is an `onnxruntime.InferenceSession`, or whatever has one: an Optimum model, a `SentenceTransformer`.
    """
    device, session = _device(plan), _session(session)
    names = list(session.get_providers())
    if device.type.value == "cpu":
        if names[:1] == [CPU]:
            return
        wrong = f"the session runs on {_listed(names)}"
    elif not names or names[0] not in _FOR[device.type.value]:
        wrong = f"the session runs on {_listed(names)}"
    else:
        number = _number(session.get_provider_options().get(names[0], {}))
        if number is None or number == (device.id or 0):
            return
        wrong = f"the session runs on device {number}"
    help_ = 'install the package that has the provider (`pip install onnxruntime-gpu` for CUDA), or allow `"cpu"`'
    raise Unsatisfiable(Diagnostic("DP424", f"{wrong}, and `{device}` was planned", help=help_))


def _device(plan: Plan) -> Device:
    if plan.component_device.has_multiple_devices:
        message = "a session of ONNX Runtime runs on one device, and the plan has several"
        raise Unsatisfiable(Diagnostic("DP409", message, help=f'plan it with `target = "{TARGET}"`'))
    return Device.from_str(plan.component_device.to_torch_str())


def _provider(device: Device, plan: Plan, host: Host) -> tuple[str, Options]:
    kind, number = device.type.value, device.id or 0
    if kind not in _FOR:
        raise Unsatisfiable(Diagnostic("DP409", f"ONNX Runtime has no provider for `{device}`"))
    limit = _limit(plan, device)
    if kind == "cuda" and is_amd(accelerator(device, host).name):
        return _FOR[kind][-1], {"device_id": number}
    if kind == "cuda":
        # The arena grows by powers of two otherwise, beyond what is asked of it.
        return _FOR[kind][0], {
            "device_id": number, "gpu_mem_limit": limit, "arena_extend_strategy": "kSameAsRequested"
        }  # fmt: skip
    return _FOR[kind][0], ({"device_type": f"GPU.{number}"} if kind == "xpu" else {})


def _limit(plan: Plan, device: Device) -> int:
    budget = plan.ledger[str(device)]
    return budget.held if budget.activations else budget.held + max(0, budget.free)


def _session(given: Any) -> Any:
    """Return the session inside a library's model."""
    for _ in range(4):
        if hasattr(given, "get_providers"):
            return given
        if hasattr(given, "transformers_model"):  # a `SentenceTransformer`
            given = given.transformers_model
        else:
            given = getattr(given, "session", None) or getattr(given, "model", None)
    raise DevPolicyError("a session of ONNX Runtime is checked, or a model that has one")


def _number(options: Mapping[str, str]) -> int | None:
    """Return the device of a provider's options, `None` where it has none."""
    text = options.get("device_id") or options.get("device_type", "").rpartition("GPU.")[2]
    return int(text) if text.isdecimal() else None


def _listed(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in names) or "nothing"
