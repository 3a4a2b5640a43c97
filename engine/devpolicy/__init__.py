"""devpolicy: write where a model runs as a TOML policy, plan it for any host, test it on hosts you do not own."""

from __future__ import annotations

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
