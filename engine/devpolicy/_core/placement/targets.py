"""What each consumer can be given.

Owns the facts about consumers that change a plan: which types of device one takes, whether it
takes a map, where it can keep weights. The conversion into its form is an adapter's.
"""

from __future__ import annotations

from dataclasses import dataclass

from devpolicy._core.device import DeviceType
from devpolicy._core.errors import DevPolicyError
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
    reads: frozenset[str] = frozenset({"safetensors"})
    """The formats of weights that it loads as they are."""


_ALL = frozenset(kind.value for kind in DeviceType) - {"disk"}

TARGETS = {
    target.name: target
    for target in (
        Target("hf", _ALL, maps=True),
        Target("haystack", frozenset({"cuda", "mps", "xpu", "cpu"}), maps=True),
        Target("torch", _ALL, maps=False, reads=frozenset({"safetensors", "gguf"})),
        Target("spacy", frozenset({"cuda", "mps", "cpu"}), maps=False),
    )
}
DEFAULT_TARGET = "hf"


def target_of(name: str) -> Target:
    """Return a consumer by name. Raises `TargetError` with the likely one."""
    if not isinstance(name, str):
        raise TargetError(f"a target is named by text such as `hf`, not by a value of type {type(name).__name__}")
    if name not in TARGETS:
        raise TargetError(f"unknown target `{name}`: {did_you_mean(name, TARGETS)}")
    return TARGETS[name]
