"""The values that describe a consumer.

Owns their fields and what each means. An ability is a fact about a consumer that changes a plan or its form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from devpolicy._core.device import DeviceType
from devpolicy._core.loading.quantization import SchemeSupport

ALL_TYPES = frozenset(kind.value for kind in DeviceType) - {"disk"}
"""Every type of device that can execute."""

Keeps = Literal["streams", "computes", "maps", "budget", "experts"]
"""What a consumer does with weights that a plan keeps on a place beside its accelerators.

`"streams"`: they are brought to the main device for each use. `"computes"`: they run there. `"maps"`: they are pages of
a file, read when they are used. `"budget"`: the consumer is told how many bytes, and chooses which. `"experts"`: it is
told how many experts of each layer stay on the accelerator, and the others run there.
"""

OfLoading = Literal["quantization", "attention", "architecture", "adapter", "variant"]
"""The keys of `[loading]`."""
Carried = Literal["dtype", "context", "batch", "kv_dtype", "folder"] | OfLoading
"""What a form can say beside the devices."""

LOADING: frozenset[Carried] = frozenset(("quantization", "attention", "architecture", "adapter", "variant"))
CARRIED: frozenset[Carried] = LOADING | frozenset(("dtype", "context", "batch", "kv_dtype", "folder"))


@dataclass(frozen=True, slots=True)
class StreamingMode:
    """One way in which a consumer streams a whole model through a device."""

    name: str
    holds: Literal["everything", "component", "group", "leaf"]
    """What is on the device at once: its largest one counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a consumer can be given. The defaults are those of one that takes a whole model on one device."""

    types: frozenset[str] = ALL_TYPES
    """The types of device that it executes on."""
    reads: frozenset[str] = frozenset({"safetensors"})
    """The formats of weights that it loads as they are stored: `safetensors`, `gguf`, `onnx`, `diffusers`."""
    unit: Literal["whole", "part", "layer", "module", "tensor"] = "whole"
    """The smallest part that it can be told a place for."""
    assigns: Literal["one", "units", "runs", "counts", "budgets"] = "one"
    """How it is told: one device, a place for each unit, runs of layers, how many layers, or bytes for each device."""
    any_order: bool = True
    """Whether it takes devices in another order than that of their ids."""
    runs_per_device: int | None = None
    """How many runs of layers one device may hold; `None`: any number."""
    groups: frozenset[Literal["tensor", "pipeline"]] = frozenset()
    """The ways in which it divides a model over equal devices."""
    equal_stages: bool = False
    """Whether its stages must hold the same number of layers."""
    cpu: Literal["never", "prefix", "any"] = "never"
    """Which layers it can compute on the CPU beside an accelerator: none, the first ones, any."""
    keeps: Mapping[str, Keeps] = field(default_factory=dict)
    """What it does with weights stored on `cpu` and on `disk`; a place that is missing is refused."""
    streaming: tuple[StreamingMode, ...] = ()
    """The modes that it offers for the whole model, tried in this order under `overflow`."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Where it puts a role (`input`, `head`) unless a rule says otherwise: `any`, `cpu`, `first`, `last`."""
    main_device: Literal["lowest", "none"] = "none"
    """The device that runs what is kept elsewhere: the lowest that is used, where weights are streamed."""
    shares_ties: Literal["always", "alone", "never"] = "always"
    """Where a tied tensor is held once: wherever its names are on one device, where the whole model is, or nowhere."""
    cache: Literal["with-unit", "all-or-nothing", "engine"] = "with-unit"
    """Where the KV cache is: with its layer, all in one place, or where the engine puts it."""
    states: int = 1
    """How many states of a recurrent layer it keeps for each sequence."""
    state_pages: bool = False
    """Whether states are kept in pages, which are as large as those of keys and values."""
    step: int | None = None
    """Tokens of all sequences that it computes at once, at most: told so, or by default. `None`: all of them."""
    budget: Literal["per-device", "same-fraction-of-total", "same-fraction-of-free"] = "per-device"
    """How it is told how much memory it may take. Of what is free when it starts: others must have started before."""
    schemes: Mapping[str, SchemeSupport] = field(default_factory=dict)
    """What it does with quantised weights, by the scheme's name. A scheme that is not there it cannot load."""
    carries: frozenset[Carried] = CARRIED
    """What its form can say beside the devices. What is asked for and not carried is refused or warned about."""

    @property
    def maps(self) -> bool:
        """Whether it takes several devices, each with a part of the model."""
        return self.assigns != "one"

    def computes_on(self, place: str) -> bool:
        """Whether what is stored on a place beside the accelerators also runs there."""
        return self.keeps.get(place) in ("computes", "maps")


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer: its name in policies and on the command line, what it can be given, and the way out."""

    name: str
    abilities: Abilities
    instead: str = "plan for `hf`, or leave the rule out"
    """The way out where a rule needs what it cannot be given."""
    distribution: str | None = None
    """The distribution on PyPI whose installed version is told."""
    about: str = ""
    """What it is, in a few words."""
    forms: Mapping[str, Callable[[Any, Any], object]] = field(default_factory=dict)
    """What `--to` prints by its name, from a plan and its host: pure functions, whose values JSON can say."""
