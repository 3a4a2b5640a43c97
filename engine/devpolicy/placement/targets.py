"""What each consumer can be given.

Owns the facts about consumers that change a plan: which types of device one takes, whether it
takes a map, where it can keep weights. The conversion into its form is an adapter's.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._tables import did_you_mean
from devpolicy.device import DeviceType
from devpolicy.errors import DevPolicyError


class TargetError(DevPolicyError, ValueError):
    """A name that is no known consumer."""


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer's abilities."""

    name: str
    types: frozenset[str]
    """The types of device that it can execute on."""
    maps: bool
    """Whether it takes a device map, with weights kept on the CPU and on disk."""


_ALL = frozenset(kind.value for kind in DeviceType) - {"disk"}

TARGETS = {
    target.name: target
    for target in (
        Target("hf", _ALL, maps=True),
        Target("haystack", frozenset({"cuda", "mps", "xpu", "cpu"}), maps=True),
        Target("torch", _ALL, maps=False),
        Target("spacy", frozenset({"cuda", "mps", "cpu"}), maps=False),
    )
}
COMPONENT_TARGETS = {
    target.name: target
    for target in (
        Target("haystack-torch", frozenset({"cuda", "mps", "xpu", "cpu"}), maps=False),
        Target("haystack-spacy", frozenset({"cuda", "cpu"}), maps=False),
        Target("haystack-cpu", frozenset({"cpu"}), maps=False),
        Target("onnxruntime", frozenset({"cuda", "cpu"}), maps=False),
        Target("llama-cpp", frozenset({"cuda", "mps", "cpu"}), maps=False),
    )
}
"""Consumers behind a component of a framework: what it hands on may be less than its library takes.

The component's class says which one is meant, so a policy does not name them.
"""
DEFAULT_TARGET = "hf"


def target_of(name: str) -> Target:
    """Return a consumer by name. Raises `TargetError` with the likely one."""
    found = TARGETS.get(name) or COMPONENT_TARGETS.get(name)
    if found is None:
        raise TargetError(f"unknown target `{name}`: {did_you_mean(name, TARGETS)}")
    return found
