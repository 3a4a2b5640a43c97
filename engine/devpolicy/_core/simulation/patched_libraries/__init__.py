"""The libraries that ask about devices, a module for each.

A module gives a `LIBRARY`: what the functions of its Python modules answer on a simulated host, and what else would
keep an answer. Functions that the installed version of a library does not have are left out, so a simulation never
adds a name. Nothing of a library is imported before it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from devpolicy._core.simulation.running import Simulation, running

Answer = Callable[..., Any]
"""Takes the running `Simulation`, then what the function takes."""

Make = Callable[[Any], Any]
"""Takes what stands there, and returns what stands in for it. It consults `running` itself."""


@dataclass(frozen=True, slots=True)
class Around:
    """An answer that needs the function it replaces: takes the `Simulation`, the original, then the arguments."""

    function: Answer


def _call_original(simulation: Simulation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return original(*args, **kwargs)


ORIGINAL = Around(_call_original)
"""The library's own function answers."""


def _no_other(name: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Library:
    """What is replaced of one library, by module name."""

    answers: Mapping[str, Mapping[str, Answer | Around]] = field(default_factory=dict)
    """Functions, replaced wherever they are held."""
    tensors: Mapping[str, Mapping[str, Answer | Around]] = field(default_factory=dict)
    """What answers instead at the depths where devices hold tensors."""
    classes: Mapping[str, Mapping[str, Make]] = field(default_factory=dict)
    """Classes that cannot be instantiated on a simulated device, replaced wherever they are held."""
    tensor_classes: Mapping[str, Mapping[str, Make]] = field(default_factory=dict)
    """Those that matter only where devices hold tensors."""
    constants: Mapping[str, Mapping[str, Make]] = field(default_factory=dict)
    """Values that a module took at its import, in that module, or with `package.*` in all of a package's."""
    attributes: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)
    """Values of a module that other modules read as its attributes, and do not keep."""
    missing: Mapping[str, Callable[[Simulation, str], Any]] = field(default_factory=dict)
    """What stands for a name that a module has on the host and not here; `None` where it has none there either."""
    class_attributes: Mapping[str, Mapping[str, Make]] = field(default_factory=dict)
    """Attributes of classes, as `Class.attribute`."""
    tensor_class_attributes: Mapping[str, Mapping[str, Make]] = field(default_factory=dict)
    """Those that matter only where devices hold tensors."""
    layer_of: Callable[[str], str | None] = _no_other
    """Which layer one of its names belongs to, `None` for that of its module or of its words."""
    ask: Callable[[], Simulation | None] = running
    """Which simulation answers its functions."""
    entered: Callable[[Simulation], None] | None = None
    """Called when a simulation begins; what undoes it goes to the simulation's `restore`."""
    tensors_entered: Callable[[Simulation], None] | None = None
    """Called besides where devices hold tensors."""

    def constants_of(self, module: str) -> Mapping[str, Make]:
        """Return the constants of one module."""
        return self.constants.get(module) or self.constants.get(f"{module.partition('.')[0]}.*") or {}


NAMES = (
    *("ours", "memory", "nvml"),
    *("torch_devices", "torch_mps", "torch_accelerator", "torch_refused", "torch_version"),
    *("torch_tensors", "torch_cuda", "torch_types", "torch_storage"),
    *("torch_parallel", "torch_distributed", "torch_compiled", "torch_fake"),
    *("accelerate", "bitsandbytes", "transformers", "thinc", "onnxruntime", "processes"),
)


def patched_libraries() -> tuple[Library, ...]:
    """Return every library."""
    return tuple(import_module(f"{__name__}.{name}").LIBRARY for name in NAMES)
