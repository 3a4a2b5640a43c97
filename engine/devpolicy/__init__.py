"""devpolicy: write where a model runs as a TOML policy, plan it for any host, test it on hosts you do not own.

Owns the public names. Each is imported when it is first used, so that `import devpolicy` costs next to nothing in a
library that only might need it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.language.policy import Policy, ResolvedPolicy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.verbs import plan, plan_all, resolve, use_policy
    from devpolicy.errors import DevPolicyError, DevPolicyWarning, PolicyError, Unsatisfiable

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
    "ResolvedPolicy",
    "Unsatisfiable",
    "plan",
    "plan_all",
    "resolve",
    "use_policy",
]

_MODULES = {
    "devpolicy._core.verbs": ("plan", "plan_all", "resolve", "use_policy"),
    "devpolicy._core.device": ("ComponentDevice", "Device", "DeviceMap", "DeviceType"),
    "devpolicy.errors": ("DevPolicyError", "DevPolicyWarning", "PolicyError", "Unsatisfiable"),
    "devpolicy._core.host": ("Accelerator", "Host"),
    "devpolicy._core.language.policy": ("Policy", "ResolvedPolicy"),
    "devpolicy._core.model.tree": ("ModelTree",),
    "devpolicy._core.placement.plan": ("Plan",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("errors", "fleet", "haystack", "testing")


if os.environ.get("DEVPOLICY"):
    # The policy of a process is asked by Haystack's components too, without another line of the program.
    from devpolicy._core.targets.haystack_components.ambient import COMPONENTS

    COMPONENTS.install()


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    module = _WHERE.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
