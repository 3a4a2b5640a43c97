"""From a `torch.nn.Module` to a `ModelTree`.

Owns the walk over a module: paths, classes, tensors, ties, blocks that stay whole. It never touches a tensor's data,
so a model on the meta device reads as one in memory does. What a Transformers configuration adds (KV cache,
activations) is in `devpolicy._core.model.facts`, what its loading converts in
`devpolicy._core.model.checkpoint_mapping`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.connected import connected_components
from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.loading.dtypes import float32_rule, has_float32_rule
from devpolicy._core.loading.implementations import loading_of
from devpolicy._core.model.checkpoint_mapping import Converted, converted_names, outermost
from devpolicy._core.model.conversion import default_skips
from devpolicy._core.model.facts import config_of, derive
from devpolicy._core.model.generation import beams_of_module
from devpolicy._core.model.limits import LARGEST_TREE
from devpolicy._core.model.neutral import config_text
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import DTYPE_BITS, FLOATING, ModelTree, Module, Tensor
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from torch import nn


def from_module(module: Any, no_split: Iterable[str] | None = None, name: str | None = None) -> ModelTree:
    """Read a `torch.nn.Module`, wherever its tensors are. Linear in the number of modules.

    Children are in the order of their registration, which is the order of execution in the models of Transformers,
    but for small parts (`rotary_emb`) that hold next to nothing. A module that is registered twice stands at both
    paths, and its tensors are tied. `no_split` names block classes; `None` takes the `_no_split_modules` of the module
    and of every module in it. `name` is by default that of the configuration, else the class.

    A module's weights are `in_place` where they are on the meta device and loading does not convert them: they will be
    read from a checkpoint. Weights in memory are not: to keep them on disk, `accelerate.dispatch_model` writes them to
    its `offload_dir` first.

    Raises `ModelError` where `module` is no module, contains itself, holds a lazy parameter that has no shape yet, or
    has no class that `no_split` names.
    """
    return read_module(module, no_split, name)


class Built(NamedTuple):
    """A model that was built without weights: the dtype that it was built in, and the one that it is loaded in."""

    dtype: str
    loaded: str


_WHOLE = frozenset({"MllamaVisionModel"})
"""Models that put outputs of their own blocks together, which nobody moves, and do not say that they stay whole."""


def read_module(
    module: Any, no_split: Iterable[str] | None = None, name: str | None = None, *, built: Built | None = None
) -> ModelTree:
    """Read a module as `from_module` does; with `built`, no tensor in it is a weight, wherever it is.

    Some models of Transformers make small parameters in memory even when they are built on the meta device.
    """
    unloaded = built is not None
    try:
        from torch import nn
    except ImportError:
        message = "a module can be read only where torch is installed: `pip install 'devpolicy[torch]'`"
        raise ModelError(message) from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"a model is read from a `torch.nn.Module`, not from {type(module).__name__} objects")
    reader = _Reader(unloaded=unloaded)
    modules = reader.read(module)
    config, prefix = config_of(reader.declaring)
    derived = derive(config, modules, prefix, takes_cache=_takes_cache(reader.declaring))
    if built is not None:
        derived["dtype"] = built.loaded
    if not prefix and hasattr(module, "_no_split_modules") and config:
        derived["loading"] = loading_of(module)
        derived["config"] = config_text(config)
        derived["beams"] = beams_of_module(module) or derived["beams"]
    modules = _as_loaded(modules, reader.declaring, built)
    tree = ModelTree(
        name=name or _name(module, config),
        modules=_computed(_converted(modules, converted_names(reader.declaring))),
        ties=_tied(reader.objects, [*_declared(reader.declaring, unloaded=unloaded)], modules),
        no_split=_no_split(reader.declaring) if no_split is None else _checked(no_split, modules),
        **derived,
    )
    head = _head(module)
    return tree if head is None or head in default_skips(tree) else replace(tree, head=head)


def _head(module: nn.Module) -> str | None:
    """Return the path of a Transformers model's output embeddings."""
    asked = getattr(module, "get_output_embeddings", None)
    try:
        head = asked() if callable(asked) and hasattr(module, "config") else None
    except (AttributeError, NotImplementedError, TypeError):  # a model that has none may say so in its own way
        return None
    # Level by level: a head is near the root, and behind all layers of it.
    level: list[tuple[str, nn.Module]] = [] if head is None else [("", module)]
    while level:
        for path, part in level:
            if part is head:
                return path
        below = [(join(path, name), child) for path, part in level for name, child in part._modules.items()]
        level = [(path, child) for path, child in below if child is not None]
    return None


def _takes_cache(declaring: Iterable[tuple[str, nn.Module]]) -> bool | None:
    """Return whether any model of Transformers among modules can keep a cache; `None` where there is no such model."""
    models = [(path, part) for path, part in declaring if hasattr(part, "can_generate") and hasattr(part, "config")]
    if not models:
        return None
    # What neither generates nor takes a cache asks none of its parts for one, whatever they could do.
    whole = [path for path, part in outermost(models) if part.can_generate() or _may_use_cache(type(part).forward)]
    return any(
        _may_use_cache(type(part).forward) and _uses_cache(part)
        for path, part in models
        if any(not root or path == root or path.startswith(f"{root}.") for root in whole)
    )


@cache
def _may_use_cache(forward: Any) -> bool:
    names = inspect.signature(forward).parameters
    streams = "padding_cache" in names and "use_cache" not in names  # an encoder of sound, in pieces
    return not (streams or {"use_cache", "use_mems", "cache", "past_key_values"}.isdisjoint(names))


def _uses_cache(model: Any) -> bool:
    return getattr(model.config, "use_cache", None) is not False or bool(model.can_generate())


def _as_loaded(
    modules: tuple[Module, ...], declaring: Iterable[tuple[str, nn.Module]], built: Built | None
) -> tuple[Module, ...]:
    """Return the modules with the dtypes that loading gives them, and the tensors marked that stay in float32."""
    models = [(path, model) for path, model in declaring if has_float32_rule(model)]
    rules = [(f"{path}." if path else "", float32_rule(model)) for path, model in outermost(models)]
    if not rules and built is None:
        return modules
    made: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def word(full: str) -> str:
        return next((rule(full.removeprefix(prefix)) for prefix, rule in rules if full.startswith(prefix)), "")

    def tensors_of(module: Module) -> tuple[Tensor, ...]:
        words = tuple(word(join(module.path, tensor.name)) for tensor in module.tensors) if rules else ()
        key = (module.tensors, words, module.in_place)
        if key not in made:
            pairs = zip(module.tensors, words or ("",) * len(module.tensors), strict=True)
            made[key] = tuple(_tensor_as_loaded(tensor, word, built, module.in_place) for tensor, word in pairs)
        return made[key]

    return tuple(replace(module, tensors=tensors_of(module)) if module.tensors else module for module in modules)


def _tensor_as_loaded(tensor: Tensor, float32_in: str, built: Built | None, unloaded: bool) -> Tensor:
    """Return a tensor as loading makes it; `float32_in` is what its model declares for its name."""
    if tensor.dtype not in FLOATING:
        return tensor
    if not tensor.persistent:  # made by the code, in the dtype of the model where it says none
        return replace(tensor, dtype=built.loaded, follows=True) if built and tensor.dtype == built.dtype else tensor
    if built is not None and tensor.dtype != built.dtype:
        return replace(tensor, float32_in="any") if tensor.dtype == "float32" else tensor
    dtype = tensor.dtype if built is None else built.loaded
    marked = replace(tensor, dtype=dtype, float32_in=float32_in)
    # What is in memory has its dtype; what will be loaded gets it.
    return replace(marked, dtype=marked.dtype_as(dtype)) if unloaded or built else marked


class _Reader:
    """Reads a module and all that is in it, with one tuple of tensors for all modules that are alike.

    Everything that is asked of a module is asked here, in one visit: in a large model each visit waits for memory.
    """

    def __init__(self, *, unloaded: bool) -> None:
        self._unloaded = unloaded
        self._classes: dict[type, tuple[str, bool]] = {}  # its name, and whether it declares blocks
        self._made: dict[tuple[object, ...], tuple[Tensor, ...]] = {(): ()}
        self.objects: list[int] = []  # which object each tensor is, in the order of the modules
        self.declaring: list[tuple[str, nn.Module]] = []  # modules that say more than their tensors

    def read(self, root: nn.Module) -> tuple[Module, ...]:
        """Return the modules in pre-order. Unlike in `named_modules`, a shared module is at each of its paths."""
        found: list[Module] = []
        classes = self._classes
        # The modules that are open: what stands before the names of their children, and the children to come.
        inside: dict[int, tuple[str, Iterator[tuple[str, nn.Module | None]]]] = {0: ("", iter([("", root)]))}
        while inside:
            last = next(reversed(inside))
            prefix, children = inside[last]
            for name, module in children:
                if module is None:
                    continue
                if len(found) == LARGEST_TREE:
                    raise ModelError(
                        f"the model has more than {LARGEST_TREE} modules, counting shared ones at each path"
                    )
                path = prefix + name
                # A module finds its attributes by a function of its own, which is slow: here its table is asked.
                own, kind = module.__dict__, type(module)
                if "_parameters" not in own:
                    own = _attributes(path, module)
                cls, declares = classes.get(kind) or self._class(kind)
                if declares or "config" in own or "_no_split_modules" in own or "all_tied_weights_keys" in own:
                    self.declaring.append((path, module))
                if own["_parameters"] or own["_buffers"]:
                    found.append(Module(path, cls, *self._tensors(path, own)))
                else:
                    found.append(Module(path, cls))
                if below := own["_modules"]:
                    if id(module) in inside:
                        raise ModelError(f"module `{path}` contains itself")
                    inside[id(module)] = f"{path}." if path else "", iter(below.items())
                    break
            else:
                del inside[last]
        return tuple(found)

    def _tensors(self, path: str, own: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], bool]:
        """Return the tensors that a module with such attributes holds itself, and whether all are read in place."""
        alike: list[object] = []
        objects, unloaded, in_place, name = self.objects, self._unloaded, True, ""
        try:
            for name, tensor in own["_parameters"].items():
                if tensor is not None:
                    alike += name, tensor.shape, tensor.dtype, type(tensor)
                    objects.append(id(tensor))
                    in_place = in_place and (unloaded or tensor.is_meta)
            for name, buffer in own["_buffers"].items():
                if buffer is not None:
                    persistent = name not in own["_non_persistent_buffers_set"]
                    alike += name, buffer.shape, buffer.dtype, type(buffer), persistent
                    objects.append(id(buffer))
                    in_place = in_place and (unloaded or not persistent or buffer.is_meta)
        except RuntimeError:
            raise _lazy(join(path, name)) from None
        key = tuple(alike)
        tensors = self._made.get(key)
        if tensors is None:
            tensors = tuple(_tensors(own))
            if not any(hasattr(one, "__tensor_flatten__") for one in alike):
                self._made[key] = tensors
        return tensors, in_place

    def _class(self, kind: type) -> tuple[str, bool]:
        found = self._classes[kind] = kind.__name__, hasattr(kind, "_no_split_modules")
        return found


def _attributes(path: str, module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that keeps its tensors and children elsewhere, as traced modules do."""
    try:
        held = {name: getattr(module, name) for name in ("_parameters", "_buffers", "_modules")}
    except AttributeError:
        named = f"module `{path}`" if path else "the model"
        message = f"{named} is not initialised: its `__init__` has to call `super().__init__()` first"
        raise ModelError(message) from None
    return {**module.__dict__, **held}


def _lazy(full: str) -> ModelError:
    return ModelError(f"tensor `{full}` has no shape yet: run one batch through its lazy module first")


def _tensors(own: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that a module with such attributes holds itself."""
    for name, tensor in own["_parameters"].items():
        if tensor is not None:
            yield Tensor(name, *_stored(tensor))
    for name, held in own["_buffers"].items():
        if held is not None:
            persistent = name not in own["_non_persistent_buffers_set"]
            yield Tensor(name, *_stored(held), buffer=True, persistent=persistent)


def _stored(tensor: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape and the dtype of what is stored of a tensor."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if hasattr(tensor, "__tensor_flatten__") or dtype not in DTYPE_BITS:
        # Quantised tensors of torchao show the shape that they stand for; their parts are what is stored.
        return (_stored_bytes(tensor),), "uint8"
    return tuple(tensor.shape), dtype


def _stored_bytes(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.numel() * tensor.element_size())
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored_bytes(getattr(tensor, name)) for name in names)


def _declared(declaring: Iterable[tuple[str, nn.Module]], *, unloaded: bool) -> Iterator[list[str]]:
    """Yield the ties that Transformers models declare and that loading will make.

    In memory, identity is the truth: loading may have found two different weights and left them so.
    """
    for path, module in declaring:
        keys = module.__dict__.get("all_tied_weights_keys")
        for names in keys.items() if isinstance(keys, dict) else ():
            try:
                meta = [tensor.is_meta for tensor in attrgetter(*names)(module)]
            except AttributeError:  # a part that this model does not have
                continue
            if unloaded or all(meta):
                yield [join(path, name) for name in reversed(names)]


def _tied(objects: Sequence[int], declared: list[list[str]], modules: Iterable[Module]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names that are one tensor, in the order of the tensors; a tensor alone is tied to nothing.

    `objects` tells of each tensor which one it is, in order, and `declared` are groups beside these.
    """
    if not declared and len(set(objects)) == len(objects):
        return ()
    names = [join(module.path, tensor.name) for module in modules for tensor in module.tensors]
    order = {name: place for place, name in enumerate(names)}
    first: dict[int, str] = {}
    pairs = ([first.setdefault(one, name), name] for one, name in zip(objects, names, strict=True))
    groups = [pair for pair in pairs if pair[0] != pair[1]]
    # What a model declares may be reached by a name that is no parameter's: a property's, say.
    groups += [group for group in declared if all(name in order for name in group)]
    return tuple(tuple(names) for names in connected_components(groups, key=order.__getitem__) if len(names) > 1)


def _converted(modules: tuple[Module, ...], converted: Mapping[str, Converted]) -> tuple[Module, ...]:
    """Return the modules with those marked whose weights cannot be read in place because loading converts them."""
    return tuple(_as_converted(module, converted) for module in modules) if converted else modules


def _as_converted(module: Module, converted: Mapping[str, Converted]) -> Module:
    names = [join(module.path, tensor.name) for tensor in module.tensors]
    if converted.keys().isdisjoint(names):
        return module
    pairs = zip(module.tensors, names, strict=True)
    tensors = tuple(
        replace(tensor, merged=one.copies, kept=one.kept)
        if module.in_place and (one := converted.get(name))
        else tensor
        for tensor, name in pairs
    )
    return replace(module, tensors=tensors, in_place=False)


_COMPUTED = {
    "ParametrizationList": ("", 1),
    "Nemotron3DiarizationSubpixelUpsampler": ("conv", 2),
    "FalconMambaMixer": ("", 2),
    "MambaMixer": ("", 2),
    "MusicFlamingoRotaryEmbedding": ("", 2),
    "VideoPrismTextEmbeddings": ("", 1),
}
"""Modules whose weight or table loading computes again on its device: `_init_weights` asks for it, also where stored.

The child that holds it, and how many times its bytes are there beside it.
"""


def _computed(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """Return the modules with those weights marked that are computed again while they are loaded."""
    found = (module for module in modules if module.class_name in _COMPUTED)
    copies = {
        join(module.path, child) if child else module.path: count
        for module in found
        for child, count in [_COMPUTED[module.class_name]]
    }
    if not copies:
        return modules
    return tuple(_as_computed(module, copies[module.path]) if module.path in copies else module for module in modules)


def _as_computed(module: Module, copies: int) -> Module:
    largest = max(module.tensors, key=lambda tensor: tensor.elements, default=None)
    tensors = (replace(one, merged=copies) if one is largest else one for one in module.tensors)
    return replace(module, tensors=tuple(tensors))


def _no_split(declaring: Iterable[tuple[str, nn.Module]]) -> frozenset[str]:
    names: set[str] = set()
    for _, module in declaring:
        declared = module.__dict__.get("_no_split_modules", getattr(type(module), "_no_split_modules", None))
        names.update(str(entry) for entry in declared or ())
        names.update({type(module).__name__} & _WHOLE)
    return frozenset(names)


def _checked(no_split: Iterable[str], modules: Iterable[Module]) -> frozenset[str]:
    names = [no_split] if isinstance(no_split, str) else list(no_split)
    classes = {module.class_name for module in modules}
    for name in names:
        if name not in classes:
            close = did_you_mean(str(name), sorted(classes))
            raise ModelError(Diagnostic("DP202", f"`{name}` in `no_split` is no class of this model", help=close))
    return frozenset(names)


def _name(module: nn.Module, config: dict[str, Any]) -> str:
    return str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2] or type(module).__name__
