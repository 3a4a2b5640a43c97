"""What each consumer can be given.

Owns the facts about consumers that change a plan: which types of device one takes, whether it
takes a map, where it can keep weights. The conversion into its form is an adapter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from devpolicy._core.device import DeviceType
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.loading.quantization import SchemeSupport
from devpolicy._core.loading.support import TRANSFORMERS
from devpolicy._core.toml.tables import did_you_mean


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
    instead: str = "plan for `hf`, or leave the rule out"
    """The way out where a rule needs a map and it takes none."""
    reads: frozenset[str] = frozenset({"safetensors"})
    """The formats of weights that it loads as they are."""
    schemes: Mapping[str, SchemeSupport] = field(default_factory=dict)
    """What it does with quantised weights, by the scheme's name. A scheme that is not there it cannot load."""


_ALL = frozenset(kind.value for kind in DeviceType) - {"disk"}

TARGETS = {
    target.name: target
    for target in (
        Target("hf", _ALL, maps=True, schemes=TRANSFORMERS),
        Target("haystack", frozenset({"cuda", "mps", "xpu", "cpu"}), maps=True, schemes=TRANSFORMERS),
        Target("torch", _ALL, maps=False, reads=frozenset({"safetensors", "gguf"}), schemes=TRANSFORMERS),
        Target("spacy", frozenset({"cuda", "mps", "cpu"}), maps=False),
    )
}
_ONE = 'leave the rule out for this component; a class of your own that takes a map is given one by `target = "hf"`'

COMPONENT_TARGETS = {
    name: Target(name, frozenset(types), maps=False, instead=_ONE, schemes=TRANSFORMERS if "torch" in name else {})
    for name, types in {
        "haystack-torch": ("cuda", "mps", "xpu", "cpu"),
        "haystack-spacy": ("cuda", "cpu"),
        "haystack-cpu": ("cpu",),
        "onnxruntime": ("cuda", "cpu"),
        "llama-cpp": ("cuda", "mps", "cpu"),
    }.items()
}
"""Consumers behind a component of a framework: what it hands on may be less than its library takes.

The component's class says which one is meant, so a policy does not name them.
"""
DEFAULT_TARGET = "hf"


def target_of(name: str) -> Target:
    """Return a consumer by name. Raises `TargetError` with the likely one."""
    if not isinstance(name, str):
        raise TargetError(f"a target is named by text such as `hf`, not by a value of type {type(name).__name__}")
    found = TARGETS.get(name) or COMPONENT_TARGETS.get(name)
    if found is None:
        raise TargetError(f"unknown target `{name}`: {did_you_mean(name, TARGETS)}")
    return found
