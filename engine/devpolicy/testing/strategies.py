"""Hypothesis strategies for the values of devpolicy.

Well-formed values by default, small ones first, so that a failing test shrinks to the simplest world that shows it.
Importing this package imports Hypothesis (the extra `devpolicy[testing]`).
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401 - asked for once, to say what is missing
except ModuleNotFoundError:
    from devpolicy._core.errors import MissingLibraryError

    message = "strategies are Hypothesis's, which is not installed here: `pip install 'devpolicy[testing]'`"
    raise MissingLibraryError(message) from None

from devpolicy._core.strategies.configs import transformers_configs
from devpolicy._core.strategies.devices import component_devices, device_maps, devices
from devpolicy._core.strategies.hosts import accelerators, faulty_hosts, hosts
from devpolicy._core.strategies.models import model_trees, torch_modules
from devpolicy._core.strategies.policies import patterns, policies, policy_texts

__all__ = [
    "accelerators",
    "component_devices",
    "device_maps",
    "devices",
    "faulty_hosts",
    "hosts",
    "model_trees",
    "patterns",
    "policies",
    "policy_texts",
    "torch_modules",
    "transformers_configs",
]
