"""devpolicy: write where a model runs as a TOML policy, plan it for any host, test it on hosts you do not own.

Nothing is imported until a name is used: pytest loads our plugin, and with it this package, at the start of every run
wherever devpolicy is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devpolicy.api import plan, plan_all, resolve, use_policy
    from devpolicy.device import ComponentDevice, Device, DeviceMap, DeviceType
    from devpolicy.errors import DevPolicyError, DevPolicyWarning, PolicyError, Unsatisfiable
    from devpolicy.host import Accelerator, Host
    from devpolicy.language.policy import Policy
    from devpolicy.model import ModelTree
    from devpolicy.placement.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "Accelerator",
    "ComponentDevice",
    "DevPolicyError",
    "DevPolicyWarning",
    "Device",
    "DeviceMap",
    "DeviceType",
    "Host",
    "ModelTree",
    "Plan",
    "Policy",
    "PolicyError",
    "Unsatisfiable",
    "plan",
    "plan_all",
    "resolve",
    "use_policy",
]

_WHERE = {
    **dict.fromkeys(("plan", "plan_all", "resolve", "use_policy"), "api"),
    **dict.fromkeys(("ComponentDevice", "Device", "DeviceMap", "DeviceType"), "device"),
    **dict.fromkeys(("DevPolicyError", "DevPolicyWarning", "PolicyError", "Unsatisfiable"), "errors"),
    **dict.fromkeys(("Accelerator", "Host"), "host"),
    "ModelTree": "model",
    "Plan": "placement.plan",
    "Policy": "language.policy",
}
"""Public names by the module that holds them."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
