"""A plan in the form that exllamav3 takes: bytes for each GPU, which it fills in the order of their ids.

Owns the arguments of its `Cache` and of `Model.load`. It divides the layers itself, so placements are a forecast. Each
GPU but the last may take what is planned on it, and the last one all that it may give: what the engine holds back for
a forward moves layers on to the next GPU, and there they need room.
"""

from __future__ import annotations

from typing import Any

from devpolicy._core.device import Device
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.placement.plan import Plan
from devpolicy._core.sizes import GIB
from devpolicy._core.targets.environment import accelerator, used_devices

_PAGE = 256
"""Tokens of a page of its cache, which belongs to one sequence."""
_THOUSAND = 1000
_TWO_BYTES = ("float16", "bfloat16")


def exllamav3(plan: Plan, host: Host) -> dict[str, dict[str, Any]]:
    """Return the arguments of `Cache` and of `Model.load`, in their gigabytes of 1024 ** 3 bytes.

    Raises `Unsatisfiable` for what they cannot say (DP416: dtypes; DP409: another plan).
    """
    if plan.workload is None or plan.target != "exllamav3":
        message = f"the plan was made for `{plan.target}`, which places a model in other ways"
        raise Unsatisfiable(Diagnostic("DP409", message, help="plan it with `--target exllamav3`"))
    _check_dtypes(plan)
    used = used_devices(plan)
    budgets = [0.0] * (1 + max(device.id or 0 for device in used))
    for device in used:
        accelerator(device, host)
        budgets[device.id or 0] = _gigabytes(plan, device, last=device == used[-1])
    batch = plan.workload.batch
    tokens = -(-plan.workload.context // _PAGE) * _PAGE * batch
    return {
        "cache": {"max_num_tokens": tokens, "max_batch_size": batch},
        "load": {"use_per_device": budgets, "max_batch_size": batch},
    }


def _gigabytes(plan: Plan, device: Device, *, last: bool) -> float:
    """Return what a GPU may take, to a thousandth: never more than the policy gives."""
    budget = plan.ledger[str(device)]
    gives = (budget.cap - budget.headroom - budget.used_by_others) * _THOUSAND // GIB
    planned = -(-(budget.used - budget.used_by_others) * _THOUSAND // GIB)
    return (gives if last else min(planned, gives)) / _THOUSAND


def _check_dtypes(plan: Plan) -> None:
    """Raise `Unsatisfiable` where a policy asks for a dtype: the engine computes in float16, and caches in it."""
    asked = plan.loading.dtype
    if asked not in (None, "float16"):
        message = f"exllamav3 computes in `float16`, and the policy asks for `{asked}`"
        raise Unsatisfiable(Diagnostic("DP416", message, help="leave `workload.dtype` out"))
    cache = plan.workload.kv_dtype if plan.workload is not None else "float16"
    if cache not in _TWO_BYTES and any(budget.kv_cache for budget in plan.ledger.values()):
        message = f"exllamav3's cache is kept in `float16`, and it was counted in `{cache}`"
        raise Unsatisfiable(Diagnostic("DP416", message, help='`workload.kv_dtype = "float16"`'))
