"""What is replaced together: for every simulation, or only for those on which it makes a difference.

Putting hundreds of names in place costs more than all else that a simulation does. What asks about Intel's or Apple's
devices alone gives the library's own answer where neither the host nor the real torch has them, and what is there for
devices that hold tensors does so at the depths where they do not: such names stay as they are. Owns the layers, which
names belong to each, and which of them a simulation needs.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.build import ROCM, host_built_for
from devpolicy._core.simulation.patches import AttributePatch, ClassPatches, ModulePatches
from devpolicy._core.simulation.running import paused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from devpolicy._core.host import Host

ALWAYS = "always"
TENSORS = "tensors"
TYPES = ("xpu", "mps", ROCM)
"""What names are layers for: Intel's, Apple's and AMD's devices. NVIDIA's are what nearly every host has."""
NVML = "nvml"
"""What NVML answers once it was initialised."""
LAYERS = (ALWAYS, *TYPES, NVML, TENSORS)

_OF_MODULE = {"torch.xpu": "xpu", "torch.mps": "mps", "torch.backends.mps": "mps"}


class Layer:
    """Names of modules and attributes of classes that are put in place and taken away together."""

    def __init__(self) -> None:
        self.names = ModulePatches()
        self.classes = ClassPatches()
        self.attributes: dict[int, AttributePatch] = {}
        """By their modules' namespaces."""
        self.count = 0
        """How many simulations need it now."""

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return chain(self.names, self.classes, *self.attributes.values())

    def put(self) -> None:
        """Put it in place, unless a simulation has done so already."""
        self.count += 1
        if self.count == 1:
            self.names.put()
            self.classes.put()
            for patch in self.attributes.values():
                patch.put()

    def take(self) -> None:
        """Take it away, if no other simulation needs it."""
        self.count -= 1
        if not self.count:
            self.names.take()
            self.classes.take()
            for patch in self.attributes.values():
                patch.take()


def of_module(module: str) -> str:
    """Return the layer of what is asked of a module of torch."""
    parts = module.split(".")
    return _OF_MODULE.get(".".join(parts[:2])) or _OF_MODULE.get(".".join(parts[:3])) or ALWAYS


def of_word(word: str) -> str:
    """Return the layer of what names a device by this word."""
    return ROCM if word == "rocm" else word if word in TYPES else ALWAYS


def of_name(name: str) -> str:
    """Return the layer of a constant, by the words of its name."""
    return next((word for word in name.split("_") if word in TYPES), ALWAYS)


def of_all(layers: Iterable[str]) -> str:
    """Return the layer of what asks something of each of these layers."""
    found = set(layers)
    return found.pop() if len(found) == 1 else ALWAYS


def needed(host: Host, *, tensors: bool) -> tuple[str, ...]:
    """Return the layers without which a host is not seen."""
    kept = _kept.get(id(host))
    layers = kept[1] if kept is not None else _needed(host)
    return (*layers, TENSORS) if tensors else layers


def _needed(host: Host) -> tuple[str, ...]:
    layers = (ALWAYS, *(type_ for type_ in TYPES if host_built_for(host, type_) or _may_be_real(type_)))
    if "torch._C" in sys.modules:
        if len(_kept) == HOSTS_KEPT:
            _kept.clear()
        _kept[id(host)] = host, layers
    return layers


HOSTS_KEPT = 64
_kept: dict[int, tuple[Host, tuple[str, ...]]] = {}
"""By identity: tests enter few hosts many times, and a host's hash takes longer than all else."""


def _may_be_real(type_: str) -> bool:
    """Whether the torch of this process may have a type. It may where it is not loaded yet."""
    half = sys.modules.get("torch._C")
    return half is None or _is_real(type_)


@cache
def _is_real(type_: str) -> bool:
    import torch

    with paused():
        return torch.version.hip is not None if type_ == ROCM else bool(getattr(torch._C, f"_has_{type_}", True))
