"""From a `torch.nn.Module` to a `ModelTree`.

Owns the walk over a module: paths, classes, tensors, ties, blocks that stay whole. It never touches a tensor's data,
so a model on the meta device reads as one in memory does. What a Transformers configuration adds (KV cache,
activations) is in `devpolicy.models.facts`, what its loading converts in `devpolicy.models.conversion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from devpolicy._tables import did_you_mean
from devpolicy._union import united
from devpolicy.errors import Diagnostic, ModelError
from devpolicy.model import DTYPE_BITS, ModelTree, Module, Tensor
from devpolicy.models.conversion import converted_names
from devpolicy.models.facts import config_of, derive
from devpolicy.models.ranges import LARGEST_TREE, join

if TYPE_CHECKING:
    from torch import nn


def from_module(module: Any, no_split: Iterable[str] | None = None, name: str | None = None) -> ModelTree:
    """Read a `torch.nn.Module`, wherever its tensors are. Linear in the number of modules.

    Children stand in the order of their registration, which is the order of execution in the models of Transformers,
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


def read_module(
    module: Any, no_split: Iterable[str] | None = None, name: str | None = None, *, unloaded: bool = False
) -> ModelTree:
    """Read a module as `from_module` does; `unloaded` says that no tensor in it is a weight, wherever it is.

    Some models of Transformers make small parameters in memory even when they are built on the meta device.
    """
    try:
        from torch import nn
    except ImportError:
        message = "a module can be read only where torch is installed: `pip install 'devpolicy[torch]'`"
        raise ModelError(message) from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"a model is read from a `torch.nn.Module`, not from {type(module).__name__} objects")
    found = list(_walk(module))
    reader = _TensorReader(unloaded=unloaded)
    converted = converted_names(module)
    modules = tuple(Module(path, type(part).__name__, *reader.read(path, part, converted)) for path, part in found)
    config, prefix = config_of(found)
    facts = derive(config, [(entry.path, entry.cls) for entry in modules], prefix)
    return ModelTree(
        name=name or _name(module, config),
        modules=modules,
        ties=_tied([*reader.identical(), *_declared(found, reader.meta)], reader.order),
        no_split=_no_split(found) if no_split is None else _checked(no_split, modules),
        **facts,
    )


def _walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield `(path, module)` in pre-order. Unlike `named_modules`, a shared module comes at each of its paths."""
    inside: set[int] = set()
    waiting: list[tuple[str, nn.Module | None, int]] = [("", root, 0)]
    count = 0
    while waiting:
        path, module, leaving = waiting.pop()
        if module is None:
            inside.discard(leaving)
            continue
        count += 1
        if count > LARGEST_TREE:
            raise ModelError(f"the model has more than {LARGEST_TREE} modules, counting shared ones at each path")
        yield path, module
        children = [(name, child) for name, child in module._modules.items() if child is not None]
        if children:
            if id(module) in inside:
                raise ModelError(f"module `{path}` contains itself")
            inside.add(id(module))
            waiting.append(("", None, id(module)))
            waiting += [(join(path, name), child, 0) for name, child in reversed(children)]


class _TensorReader:
    """Turns torch tensors into `Tensor` values, one for all that are alike, and notes which are one object."""

    def __init__(self, *, unloaded: bool) -> None:
        self._unloaded = unloaded
        self.order: dict[str, int] = {}  # full name -> its place
        self._made: dict[tuple[object, ...], Tensor] = {}
        self._tuples: dict[tuple[Tensor, ...], tuple[Tensor, ...]] = {}
        self._dtypes: dict[object, str] = {}
        self._parts: dict[type, bool] = {}  # whether tensors of this type are made of others
        self._objects: dict[int, list[str]] = {}
        self.meta: set[str] = set()  # names of tensors that hold no data yet

    def read(self, path: str, module: nn.Module, converted: frozenset[str]) -> tuple[tuple[Tensor, ...], bool]:
        """Return the tensors that `module` holds itself, and whether they will be read in place."""
        tensors, in_place = [], True
        transient = module._non_persistent_buffers_set
        for buffer, held in ((False, module._parameters), (True, module._buffers)):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                full = join(path, name)
                persistent = not (buffer and name in transient)
                tensors.append(self._tensor(full, name, tensor, buffer=buffer, persistent=persistent))
                self.order[full] = len(self.order)
                self._objects.setdefault(id(tensor), []).append(full)
                if self._unloaded or tensor.is_meta:
                    self.meta.add(full)
                if persistent and (full in converted or full not in self.meta):
                    in_place = False
        made = tuple(tensors)
        return self._tuples.setdefault(made, made), in_place

    def identical(self) -> list[list[str]]:
        """Return the groups of names that are one object."""
        return [names for names in self._objects.values() if len(names) > 1]

    def _tensor(self, full: str, name: str, tensor: Any, *, buffer: bool, persistent: bool) -> Tensor:
        try:
            shape = tuple(tensor.shape)
        except RuntimeError:
            raise ModelError(f"tensor `{full}` has no shape yet: run one batch through its lazy module first") from None
        dtype = self._dtypes.get(tensor.dtype)
        if dtype is None:
            dtype = self._dtypes[tensor.dtype] = str(tensor.dtype).removeprefix("torch.")
        kind = type(tensor)
        if kind not in self._parts:
            self._parts[kind] = hasattr(kind, "__tensor_flatten__")
        if self._parts[kind] or dtype not in DTYPE_BITS:
            # Quantised tensors of torchao show the shape that they stand for; their parts are what is stored.
            shape, dtype = (_stored_bytes(tensor),), "uint8"
        key = (name, shape, dtype, buffer, persistent)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = Tensor(name, shape, dtype, buffer=buffer, persistent=persistent)
        return made


def _stored_bytes(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.numel() * tensor.element_size())
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored_bytes(getattr(tensor, name)) for name in names)


def _declared(found: Iterable[tuple[str, nn.Module]], meta: set[str]) -> Iterator[list[str]]:
    """Yield the ties that Transformers models declare and that loading will make.

    In memory, identity is the truth: loading may have found two different weights and left them so.
    """
    for path, module in found:
        keys = module.__dict__.get("all_tied_weights_keys")
        if isinstance(keys, dict):
            for target, source in keys.items():
                names = [join(path, str(source)), join(path, str(target))]
                if all(name in meta for name in names):
                    yield names


def _tied(groups: list[list[str]], order: dict[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names that are one tensor, in the order of the tensors; a tensor alone is tied to nothing."""
    return tuple(tuple(names) for names in united(groups, key=order.__getitem__) if len(names) > 1)


def _no_split(found: Iterable[tuple[str, nn.Module]]) -> frozenset[str]:
    by_class: dict[type, object] = {}
    names: set[str] = set()
    for _, module in found:
        cls = type(module)
        if cls not in by_class:
            by_class[cls] = getattr(cls, "_no_split_modules", None)
        declared = module.__dict__.get("_no_split_modules", by_class[cls])
        if declared:
            names.update(str(entry) for entry in declared)
    return frozenset(names)


def _checked(no_split: Iterable[str], modules: Iterable[Module]) -> frozenset[str]:
    names = [no_split] if isinstance(no_split, str) else list(no_split)
    classes = {module.cls for module in modules}
    for name in names:
        if name not in classes:
            close = did_you_mean(str(name), sorted(classes))
            raise ModelError(Diagnostic("DP202", f"`{name}` in `no_split` is no class of this model", help=close))
    return frozenset(names)


def _name(module: nn.Module, config: dict[str, Any]) -> str:
    return str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2] or type(module).__name__
