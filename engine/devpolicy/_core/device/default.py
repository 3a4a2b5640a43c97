"""The one question of the device values to this machine: which device is used where nothing chooses one.

Owns the choice of `ComponentDevice.resolve_device(None)` without an active policy, which is Haystack's. A policy never
comes here: it plans on a `Host`.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from devpolicy._core.device.single import Device
from devpolicy._core.errors import DevPolicyWarning

if TYPE_CHECKING:
    from collections.abc import Callable


def default_device() -> Device:
    """Return `cuda:0`, else `xpu`, else `mps`, else `cpu`: the first that torch can use in this process.

    `HAYSTACK_XPU_ENABLED=false` and `HAYSTACK_MPS_ENABLED=false` leave those two out. Without torch it is the CPU. A
    driver that fails when it is asked counts as absent, with a `DevPolicyWarning`.
    """
    torch = _torch()
    if torch is None:
        return Device.cpu()
    if _usable("cuda", lambda: torch.cuda.is_available()):
        return Device.gpu()
    if _enabled("HAYSTACK_XPU_ENABLED") and _usable("xpu", lambda: hasattr(torch, "xpu") and torch.xpu.is_available()):
        return Device.xpu()
    if _enabled("HAYSTACK_MPS_ENABLED") and _usable("mps", lambda: torch.backends.mps.is_available()):
        return Device.mps()
    return Device.cpu()


def _torch() -> Any:
    try:
        import torch
    except (ImportError, OSError) as broken:
        # Not installed is an answer; a library of torch's own that the loader cannot find is a fault.
        if getattr(broken, "name", None) != "torch":
            _warn("torch", broken)
        return None
    return torch


def _usable(name: str, ask: Callable[[], bool]) -> bool:
    try:
        return bool(ask())
    except Exception as broken:  # noqa: BLE001 - a driver may fail in any way, and the other devices still serve
        _warn(name, broken)
        return False


def _warn(name: str, broken: Exception) -> None:
    reason = " ".join(str(broken).split())[:200]
    message = f"`{name}` cannot be asked and is left out: {type(broken).__name__}: {reason}"
    warnings.warn(message, DevPolicyWarning, stacklevel=5)  # the caller of resolve_device


def _enabled(variable: str) -> bool:
    return os.environ.get(variable, "true") != "false"
