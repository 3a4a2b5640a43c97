"""One model's structure, as a frozen snapshot.

Owns `ModelTree` and what it is made of: modules in execution order with their classes, the
tensors that each holds itself, tied groups, blocks that must not be split, and what the KV cache
and the activations are computed from. It reads no file and no module (`devpolicy._core.model.catalogue` does).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from devpolicy._core.errors import ModelError
from devpolicy._core.loading.dtypes import FLOAT32_IN
from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.loading.value import UNKNOWN, Loading, Pairs
from devpolicy._core.model.ggml import BLOCKS

if TYPE_CHECKING:
    from os import PathLike

DTYPE_BITS: dict[str, int] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8, "float8_e8m0fnu": 8,
    "float4_e2m1fn_x2": 8, "complex32": 32, "complex64": 64, "complex128": 128,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8,
    "qint8": 8, "quint8": 8, "qint32": 32, "bool": 8,
    # Packed below a byte in safetensors; torch has no such element, only pairs of them.
    "float6_e2m3fn": 6, "float6_e3m2fn": 6, "float4_e2m1fn": 4,
}  # fmt: skip
"""Bits of one element by torch's name of the dtype, without its `torch.`."""

FLOATING = frozenset({"float64", "float32", "float16", "bfloat16"})
"""The dtypes that loading in another dtype converts."""

Format = Literal["safetensors", "gguf", "onnx", "diffusers"]

WHY_NOT = "not dequantised"
"""The key of the metadata under which the tree of a GGUF file says why Transformers does not load it."""

T = TypeVar("T")

_REMEMBERED = 1 << 18
"""So many modules, counted once for each thing that is remembered of their tree; four things of any tree."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or a buffer that a module holds itself. `name` is the last part of its path."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    buffer: bool = False
    persistent: bool = True
    """Whether it is in a state dict. A non-persistent buffer takes memory and is in no checkpoint."""
    follows: bool = False
    """Whether it has the dtype that the model is loaded in although it is not persistent: code makes it so."""
    float32_in: str = ""
    """In which dtypes of the model it is float32 all the same: a word of `FLOAT32_IN`."""
    merged: int = 0
    """How many times its own bytes are beside it for a moment, on its device, while loading makes it of others."""
    kept: int = 0
    """Elements of a larger tensor that it is a part of once it is loaded, and that are held as long as it is."""
    packed: int | None = None
    """The bytes that it takes with its scales where it is quantised; `None` where `shape` and `dtype` say it."""
    transient: int = 0
    """Bytes beside its own that quantising or dequantising it takes while it is loaded."""
    whole_elsewhere: bool = False
    """Whether it is not packed where it is kept away from the device that runs it."""
    elements: int = field(init=False, repr=False, compare=False)
    """The product of `shape`, kept because a planner asks for bytes again and again."""

    def __post_init__(self) -> None:
        """Check the name, the shape and the dtype."""
        if not self.name or "." in self.name:
            raise ModelError(f"a tensor's name is not empty and has no dot, got `{self.name}`")
        if any(size < 0 for size in self.shape):
            raise ModelError(f"tensor `{self.name}` has a negative size: {list(self.shape)}")
        if self.dtype in BLOCKS:
            if not self.shape or self.shape[-1] % BLOCKS[self.dtype][0]:
                raise ModelError(f"the rows of tensor `{self.name}` are no whole blocks of `{self.dtype}`")
        elif self.dtype not in DTYPE_BITS:
            raise ModelError(f"tensor `{self.name}` has an unknown dtype: `{self.dtype}`")
        if not (self.persistent or self.buffer):
            raise ModelError(f"tensor `{self.name}` is a parameter: only a buffer is not persistent")
        if self.float32_in not in FLOAT32_IN:
            raise ModelError(f"tensor `{self.name}` cannot be float32 in `{self.float32_in}`")
        if self.packed is not None and self.packed < 0:
            raise ModelError(f"tensor `{self.name}` cannot take {self.packed} bytes")
        object.__setattr__(self, "elements", prod(self.shape))

    def dtype_as(self, dtype: str | None) -> str:
        """Return the dtype of the tensor when the model is loaded in `dtype` (`None`: as it is).

        Only floating-point parameters and buffers follow a dtype, but for those that stay in float32, and for buffers
        that code makes in a dtype of their own.
        """
        if dtype is None or self.dtype not in FLOATING or not (self.persistent or self.follows):
            return self.dtype
        return "float32" if dtype in FLOAT32_IN[self.float32_in] else dtype

    def beside_as(self, dtype: str | None) -> int:
        """Bytes beside its own that are on its device for a moment while it is loaded."""
        return max(self.transient, self.bytes_as(dtype) * self.merged)

    def bytes_as(self, dtype: str | None) -> int:
        """Bytes of the tensor when the model is loaded in `dtype` (`None`: as it is)."""
        if self.packed is not None:
            return self.packed
        own = self.dtype_as(dtype)
        if own in BLOCKS:
            elements, size = BLOCKS[own]
            return self.elements // elements * size
        return (self.elements + self.kept) * DTYPE_BITS[own] // 8

    def elsewhere_as(self, dtype: str | None) -> int:
        """Bytes of the tensor where it is kept away from the device that runs it."""
        return (replace(self, packed=None) if self.whole_elsewhere else self).bytes_as(dtype)


@dataclass(frozen=True, slots=True, init=False)
class Module:
    """One module: its dotted path (the root's is empty), its class name, and the tensors that it holds itself."""

    path: str
    class_name: str
    tensors: tuple[Tensor, ...] = ()
    in_place: bool = True
    """Whether its weights can be read from the checkpoint as they are (safetensors, not converted on load)."""

    def __init__(self, path: str, class_name: str, tensors: tuple[Tensor, ...] = (), in_place: bool = True) -> None:
        """Set the slots themselves: models have 100,000 modules, and what dataclasses write takes twice the time."""
        _set_path(self, path)
        _set_class_name(self, class_name)
        _set_tensors(self, tensors)
        _set_in_place(self, in_place)


_set_path, _set_class_name, _set_tensors, _set_in_place = (vars(Module)[name].__set__ for name in Module.__slots__)


@dataclass(frozen=True, slots=True)
class KVCache:
    """The cache that one module keeps while it generates: `values` scalars per token and sequence."""

    module: str
    values: int
    window: int | None = None
    """Tokens that are kept at most (sliding-window attention); `None` keeps the whole context.

    A state that does not grow with the context (linear attention) is a cache of one token.
    """
    dtype: str | None = None
    """The dtype that its scalars have whatever the model's is; `None` follows the workload."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Scalars of one sequence that a model holds at once beside what each of its tokens adds; estimates."""

    pair: int = 0
    """Of each pair of tokens, beside the scores of attention: the mask of a window."""
    sequence: int = 0
    """Whatever its length: an image or a sound in its encoder, which runs alone."""
    decoded: int = 0
    """Copies of the experts that one token uses, where decoding gathers them."""


@dataclass(frozen=True, slots=True)
class Activated:
    """What the weights of one module, with those below it, have to do with a token; where nothing is said, all is read.

    Of equal parts, such as the experts of a mixture, a token reads `parts` of every `of`. `once`: the module runs once
    for a request, as encoders and vision towers do, and not for each token.
    """

    module: str
    experts_per_token: int = 1
    num_experts: int = 1
    per_request: bool = False


@dataclass(frozen=True)
class ModelTree:
    """A model's structure. `modules` are in pre-order, the root (path `""`) first, children in execution order."""

    name: str
    modules: tuple[Module, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    """Groups of full tensor names that are one tensor. Bytes count once, at the first name."""
    no_split: frozenset[str] = frozenset()
    """Class names of blocks that must stay whole on one device."""
    kv_cache: tuple[KVCache, ...] = ()
    reads: tuple[Activated, ...] = ()
    """Modules of which a token reads less than all. A module's own entry and those above it multiply."""
    context: int | None = None
    """The longest context that the model was made for, in tokens."""
    activation_elements_per_token: int = 0
    """Scalars per token that the widest block holds at once while it runs, an estimate; 0 where unknown."""
    beside: Beside = Beside()
    """What it holds at once that does not grow with the tokens."""
    step: int | None = None
    """Tokens of all sequences that an engine computes at once; `None` where all of them are."""
    logits_elements: int = 0
    """Scalars per sequence that the head returns for one step (the vocabulary); 0 where unknown."""
    attention_heads: int = 0
    """Heads of attention, each of which has a score for each pair of tokens; 0 where unknown."""
    attention_bias: Literal["", "relative", "alibi"] = ""
    """What the model adds to each score by the distance of the tokens: all scores are there then, whatever computes
    attention. Of T5's kind, or ALiBi."""
    beams: int = 1
    """Sequences that generation keeps for each of the batch where nobody asks for others: beams, or several answers."""
    dtype: str | None = None
    """The dtype in which the model is loaded where nobody asks for another."""
    incomplete_reason: str | None = None
    """Why the structure is not known in full (no classes, no ties, checkpoint names); `None` where it is."""
    format: Format = "safetensors"
    """How its weights are stored. A target reads some formats only."""
    metadata: tuple[tuple[str, str], ...] = ()
    """What the source says of the model beside its structure (model_type, parameters), for people."""
    loading: Loading = UNKNOWN
    """How Transformers instantiates the model, as far as it is known."""
    config: str = field(default="", compare=False, repr=False)
    """The Transformers configuration that it was read from, as JSON; empty where there is none. It is no structure."""
    head: str | None = None
    """The path of the output embeddings, where they are neither the last module nor tied."""
    quantization: Quantization | None = None
    """How the checkpoint is quantised, whose modules are here as they are without; `None` where it is not."""
    source: str | None = field(default=None, compare=False)
    """The path that it was read from, where it can be read as another class or variant."""
    _memo: dict[Hashable, object] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def listed_by(self) -> str:
        """What lists its modules, for a help: a command that finds it again where that is known."""
        from shlex import quote

        named = self.name if "about" in dict(self.metadata) else "MODEL"
        return f"`devpolicy model show {named if self.source is None else quote(self.source)}` lists its modules"

    def __repr__(self) -> str:
        return f"<ModelTree {self.name!r}: {len(self.modules)} modules, {self.parameters} parameters>"

    def __post_init__(self) -> None:
        """Check that the modules are a tree in pre-order and that every name used elsewhere exists. Linear time."""
        if not self.modules or self.modules[0].path:
            raise ModelError("a model's first module is its root, with an empty path")
        if len(self.index) != len(self.modules):
            raise ModelError(f"module `{self._repeated_path()}` stands twice in one model")
        _ = self.parents  # raises where a module does not follow its parent
        if self.beams < 1:
            raise ModelError(f"a model keeps one sequence at least, got {self.beams}")
        if self.dtype is not None and self.dtype not in DTYPE_BITS:
            raise ModelError(f"`{self.dtype}` is no dtype")
        if self.head is not None and self.head not in self.index:
            raise ModelError(f"the head names `{self.head}`, which is no module of the model")
        if len(dict(self.metadata)) != len(self.metadata):
            raise ModelError("a key of the metadata is given twice")
        self._check_tensors()
        self._check_ties()
        self._check_caches()

    def _check_caches(self) -> None:
        for cache in self.kv_cache:
            if cache.module not in self.index:
                raise ModelError(f"the KV cache names `{cache.module}`, which is no module of the model")
            if cache.dtype is not None and cache.dtype not in DTYPE_BITS:
                raise ModelError(f"`{cache.dtype}` is no dtype")
        for entry in self.reads:
            if entry.module not in self.index:
                raise ModelError(f"`reads` names `{entry.module}`, which is no module of the model")
            if not 0 < entry.experts_per_token <= entry.num_experts:
                raise ModelError(f"of `{entry.module}` are read {entry.experts_per_token} of {entry.num_experts} parts")

    def _repeated_path(self) -> str:
        return next(module.path for place, module in enumerate(self.modules) if self.index[module.path] != place)

    def _check_tensors(self) -> None:
        checked = set[int]()  # the readers give equal modules one tuple, so each is looked at once
        for module in self.modules:
            if id(module.tensors) not in checked:
                checked.add(id(module.tensors))
                if len({tensor.name for tensor in module.tensors}) != len(module.tensors):
                    raise ModelError(f"two tensors of module `{module.path}` have one name")

    def _check_ties(self) -> None:
        if not self.ties:
            return
        known, seen = set(self.tensor_names()), set[str]()
        for group in self.ties:
            if len(group) < 2:
                raise ModelError(f"a tied group has two tensors at least, got {list(group)}")
            for name in group:
                if name not in known:
                    raise ModelError(f"tied tensor `{name}` is no tensor of the model")
                if name in seen:
                    raise ModelError(f"tensor `{name}` is tied twice: write the groups as one")
                seen.add(name)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each module by its path."""
        return {module.path: position for position, module in enumerate(self.modules)}

    @cached_property
    def parents(self) -> list[int]:
        """Position of each module's parent; the root's is -1."""
        parents = [-1]
        # The modules from the root to the one before; pre-order means that the parent is among them.
        open_modules = [(0, "")]
        for position, module in enumerate(self.modules[1:], start=1):
            prefix, dot, name = module.path.rpartition(".")
            # Only a child of the root has no dot, and an empty prefix means the root only then.
            while open_modules and (open_modules[-1][1] != prefix or (dot and not prefix)):
                open_modules.pop()
            if not open_modules or not name:
                raise ModelError(f"module `{module.path}` does not follow its parent")
            parents.append(open_modules[-1][0])
            open_modules.append((position, module.path))
        return parents

    @cached_property
    def subtree_end(self) -> list[int]:
        """For each module the position behind its last descendant: a subtree is `range(at, subtree_end[at])`."""
        parents, ends = self.parents, [*range(1, len(self.modules) + 1)]
        for position in range(len(ends) - 1, 0, -1):
            # From the last module on, so that a parent's last child comes first.
            if ends[position] > ends[parents[position]]:
                ends[parents[position]] = ends[position]
        return ends

    def remembered(self, what: Hashable, make: Callable[[], T]) -> T:
        """Return what was made of this tree before, else make it: a tree never changes.

        Many hosts are asked about one model, and most of what is computed for them does not depend on the host. What
        was made is let go where it is too much.
        """
        memo = self._memo
        found = memo.get(what, memo)
        if found is not memo:
            return found  # type: ignore[return-value]  # `what` says which
        made = make()
        if len(memo) >= max(4, _REMEMBERED // len(self.modules)):
            memo.clear()
        memo[what] = made
        return made

    def resized(self, modules: tuple[Module, ...]) -> ModelTree:
        """Return the model with other bytes of the same tensors in the same modules: what was checked still holds."""
        made = copy(self)
        vars(made).update(modules=modules, _memo={})
        return made

    def with_attention(self, attention: Pairs) -> ModelTree:
        """Return the model as it is where it runs with other implementations of attention."""
        if attention == self.loading.attention:
            return self
        loading = replace(self.loading, attention=attention)
        return self.remembered(("attention", attention), lambda: replace(self, loading=loading))

    def children(self, position: int) -> Iterator[int]:
        """Yield the positions of a module's children, in order."""
        child, end = position + 1, self.subtree_end[position]
        while child < end:
            yield child
            child = self.subtree_end[child]

    def tensor_names(self) -> Iterator[str]:
        """Yield every tensor's full dotted name, in order."""
        for module in self.modules:
            prefix = f"{module.path}." if module.path else ""
            for tensor in module.tensors:
                yield prefix + tensor.name

    @property
    def parameters(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(tensor.elements for tensor in self._distinct_tensors() if not tensor.buffer)

    def bytes_as(self, dtype: str | None = None) -> int:
        """Bytes of all tensors when the model is loaded in `dtype` (`None`: as they are), tied ones once."""
        return sum(tensor.bytes_as(dtype) for tensor in self._distinct_tensors())

    @property
    def default_dtype(self) -> str | None:
        """The dtype that the model has where nobody asks for another; `None` where it holds no floating tensor."""
        if self.dtype in FLOATING:
            return self.dtype
        tensors = (tensor for module in self.modules for tensor in module.tensors if not tensor.buffer)
        return next((tensor.dtype for tensor in tensors if tensor.dtype in FLOATING), None)

    def _distinct_tensors(self) -> Iterator[Tensor]:
        repeated = {name for group in self.ties for name in group[1:]}
        tensors = (tensor for module in self.modules for tensor in module.tensors)
        if not repeated:
            return tensors
        return (tensor for name, tensor in zip(self.tensor_names(), tensors, strict=True) if name not in repeated)

    # Doors. Reading structure is the work of `devpolicy._core.model.catalogue`, imported when it is asked for.

    @classmethod
    def load(cls, name: str | PathLike[str], *, architecture: str | None = None) -> ModelTree:
        """Return a model by catalogue name (`"llama-3.1-8b"`), or from a model TOML, a checkpoint folder, a GGUF file.

        `architecture` names the class of a checkpoint's or a configuration's model: a model class or an auto class.
        Raises `ModelError` with the likely name where there is none.
        """
        from devpolicy._core.model.catalogue import load

        return load(name, architecture)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> ModelTree:
        """Read a model TOML. Raises `ModelError` with every finding and its place."""
        from devpolicy._core.model.model_file import parse

        return parse(text, source)

    def to_toml(self) -> str:
        """Return the model as TOML that `parse` reads back to an equal value."""
        from devpolicy._core.model.writer import write

        return write(self)

    @classmethod
    def from_module(cls, module: Any, *, no_split: list[str] | None = None, name: str | None = None) -> ModelTree:
        """Read a `torch.nn.Module`, also one on the meta device.

        `no_split` names block classes; `None` takes the module's own `_no_split_modules`.
        """
        from devpolicy._core.model.module import from_module

        return from_module(module, no_split=no_split, name=name)

    @classmethod
    def from_config(cls, config: Any, *, architecture: str | None = None) -> ModelTree:
        """Build a Transformers configuration's model on the meta device and read it. No weights are made.

        `architecture` names the model class; by default the configuration's first, else its task-free model.
        """
        from devpolicy._core.model.config import from_config

        return from_config(config, architecture=architecture)

    @classmethod
    def from_checkpoint(cls, folder: str | PathLike[str], *, architecture: str | None = None) -> ModelTree:
        """Read a checkpoint folder: what is stored from the safetensors headers, structure from its configuration.

        `architecture` names the class, a model class or an auto class; by default the tensors and the configuration do.
        Raises `ModelError` where the folder holds no checkpoint or a damaged one.
        """
        from devpolicy._core.model.checkpoint import from_checkpoint

        return from_checkpoint(folder, architecture)
