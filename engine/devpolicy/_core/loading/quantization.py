"""How the weights of a model are quantised, and what a consumer makes of that: the values.

Owns the shape of two tables. A `Scheme` says how it is recognised, which modules it converts and what their weights
take: a fact of the format. A `SchemeSupport` says what one consumer does with a scheme. The rows are in `schemes` and
in `support`; nothing else knows a scheme by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DTYPE = "{dtype}"
"""In the arguments of a scheme that is made on load: the dtype of the model."""

Settings = Mapping[str, Any]
"""What a configuration says of its scheme, with the library's defaults, by dotted key."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights of a checkpoint are quantised, as its files say it."""

    method: str
    """The library's word, as it is written (`quant_method`)."""
    scheme: str = ""
    """The name of a row of `SCHEMES`; empty where there is none."""
    settings: tuple[tuple[str, Any], ...] = ()
    """What the row's formula, its choice of modules and its arguments are computed from."""
    problem: str = ""
    """Why no row is the scheme's."""
    stored: int | None = None
    """Bytes of the checkpoint's tensors; `None` where only the configuration is known."""
    plain: tuple[str, ...] | None = None
    """The modules that a scheme may convert and that are stored as they are; `None` where that is not known."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One matrix that a scheme converts."""

    rows: int
    """Its outputs."""
    columns: int
    """Its inputs."""
    size: int
    """Bytes of one element of the model's own dtype."""
    kind: str
    """The type of the device that executes it."""
    inputs_divided: bool = False
    """Whether a group of devices divides its inputs, and not its outputs."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of a quantisation's configuration that bytes depend on."""

    default: Any
    """What the library takes where it is not given."""
    valid: Callable[[Any], bool]
    what: str
    """What is valid, for people; empty where the key is to be absent."""
    consumers_differ: bool = False
    """Whether consumers take different values where it is not given, so that it stays absent."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store weights: how it is recognised, which modules it converts, and the bytes of each weight."""

    name: str
    method: str
    """The `quant_method` that it has in a configuration."""
    bytes: Callable[[Weight, Settings], int]
    """Bytes of one matrix, with its scales and all that belongs to it."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)
    """The settings that this row is for."""
    classes: tuple[str, ...] = ("Linear",)
    """The classes of modules whose weight it converts."""
    experts: bool = False
    """Whether it converts fused experts, which are no `Linear`."""
    skips: tuple[str, ...] = ("modules_to_not_convert",)
    """The keys of the list of modules that are left; the first that is given counts."""
    skips_renamed: bool = False
    """Whether the list holds names of stored weights, which the library turns into those of modules."""
    packs_experts: bool = False
    """Whether what makes its checkpoints converts experts one by one, which a library may keep as one weight."""
    packed_as: tuple[str, ...] = ()
    """The ends of the names under which it stores the parts of a weight, where `weight` is none of them."""
    skips_by: Literal["module", "parameter", "anywhere"] = "module"
    """Whether the list is compared with the module's path, with that of its weight, or with any part of the path."""
    default_skips: Literal["unless listed", "always", "never"] = "unless listed"
    """When the head, tied weights and the last module are left."""
    only: tuple[str, str] | None = None
    """The keys of the lists of what alone it converts, and of what it leaves of that; `None` where it has none."""
    blocks: bool = False
    """Whether it converts modules of the decoder's blocks only."""
    modules_known: bool = True
    """Whether what it converts is known from the configuration; else any matrix may be."""
    float32: tuple[str, ...] = ()
    """The tensors beside a converted weight that are kept in float32."""
    float32_when: Mapping[str, Any] = field(default_factory=dict)
    """The settings under which they are; empty where they always are."""
    plain_too: bool = False
    """Whether its checkpoints may store a weight that is to be converted as it is."""
    in_config: bool = True
    """Whether a configuration says it; else it is the format of a file."""
    inputs_first: bool = False
    """Whether its modules keep a weight with the inputs first."""
    whole_inputs: int = 1
    """Where devices divide the inputs of a weight, each takes a multiple of so many."""
    whole_outputs: int = 1
    """The same for its outputs."""


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that a scheme needs, and what its version must be."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.version}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a host must have for a scheme."""

    capability: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)
    """The types of device that do it, with the least compute capability; empty where all do."""
    recorded: tuple[Package, ...] = ()
    """Packages without which the library silently does something else: a host must record that it has them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a host decides what a scheme becomes there."""

    kind: str
    """The type of the devices that execute the model."""
    capability: tuple[int, int] | None = None
    """The least compute capability of the host's devices of that type; `None` where it is not known."""
    versions: tuple[tuple[str, str], ...] = ()
    """Versions of software by name, as a host has them."""
    greatest: tuple[int, int] | None = None
    """The greatest, where all are known."""
    parts: int = 1
    """Over how many devices each weight is divided."""
    key_parts: int = 1
    """Over how many its heads of keys and values are: there may be fewer of them than devices."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What decides how a consumer reads a checkpoint."""

    settings: Settings
    facts: Facts
    dtype: str
    """The dtype that the model computes in."""


@dataclass(frozen=True, slots=True)
class NotRead:
    """Why a consumer does not read a checkpoint."""

    reason: str
    help: str = ""
    planned: bool = True
    """Whether it is the consumer that refuses; else it may load it, and no plan is made."""


ANYWHERE = Condition()


@dataclass(frozen=True, slots=True)
class SchemeSupport:
    """What one consumer does with a scheme."""

    stored: bool = True
    """Whether it loads checkpoints that are stored so."""
    refuses: Callable[[Settings], str] | None = None
    """Why it does not load a checkpoint of some settings, empty where it does; `None` where it loads all."""
    reads: Callable[[Reading], Scheme | NotRead] | None = None
    """The row of what it holds after loading, or why it does not load it; `None` where that is the scheme's own row."""
    made: bool = False
    """Whether it makes the scheme of a full checkpoint while it loads it."""
    kept: Condition | None = ANYWHERE
    """What a host must have for the weights to stay as the scheme has them; `None` where they never do."""
    dtypes: frozenset[str] = frozenset()
    """The dtypes that a model may compute in beside it; empty where all do."""
    otherwise: Literal["dequantized", "refused"] = "refused"
    """What becomes of a stored checkpoint on any other host."""
    beside: frozenset[str] = frozenset({"cpu", "disk"})
    """Where weights of a stored checkpoint may be kept beside accelerators."""
    beside_made: frozenset[str] = frozenset()
    """The same for a scheme that is made on load."""
    whole_beside: bool = False
    """Whether what is kept beside accelerators is left as it is where the scheme is made on load."""
    beside_dequantized: frozenset[str] = frozenset({"cpu", "disk"})
    """The same for a stored checkpoint that is dequantised."""
    runs_tied: bool = True
    """Whether a module that is to be converted runs where its weight is tied to another's, so that it is not."""
    several: bool = True
    """Whether a stored checkpoint that stays as it is may be divided over accelerators; else it is dequantised."""
    packages: tuple[Package, ...] = ()
    """What loading or the first forward fails without; assumed where the host records no version of it."""
    keeping: Callable[[Settings], dict[str, Any]] | None = None
    """The arguments with which a stored checkpoint stays as it is; `None` where the library takes none."""
    dequantizing: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that dequantise a stored checkpoint."""
    making: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that make the scheme on load."""
    making_beside: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that it takes besides where a part is kept beside accelerators."""
    making_takes: int = 0
    """Bytes for each element of a weight that are there beside it while it is made, measured in two-byte dtypes."""
    dequantizing_takes: int = 0
    """The same while it is dequantised."""
    because: str = ""
    """Why weights may be kept in some places only, for a refusal."""
    because_made: str = ""
    """The same for a scheme that is made on load, where that has another reason."""
