"""Tensors of the CPU in their true size, without data: the depth `phantom` for what a plan keeps in RAM.

Owns the mode that does it. Memory that is never written takes none, so what is computed of a large tensor of the CPU is
left unwritten, and reads as zeros. Small tensors compute what they compute, as on phantom devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, empty_strided
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

KEPT = 64 << 10
"""Bytes of the largest tensor that has its numbers, as at depth `phantom`."""


class UnwrittenMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs what reads or makes a large tensor of the CPU as on the meta device, with memory that nobody writes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or not _is_large_on_cpu(args, kwargs):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return _written(func, args, kwargs)
        meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, {**kwargs, "device": "meta"}))
        own = meta[1] if "device" in kwargs else {key: meta[1][key] for key in kwargs}
        return tree_map_only(Tensor, _unwritten, func(*meta[0], **own))


def _is_large_on_cpu(args: Any, kwargs: Any) -> bool:
    """Whether an operator works on the CPU alone, and a tensor of it is large."""
    device = kwargs.get("device")
    if device is not None and str(device) != "cpu":
        return False
    large = False
    for tensor in _tensors((*args, *kwargs.values())):
        if tensor.device.type != "cpu":
            return False
        large = large or tensor.nbytes > KEPT
    return large


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (inner for inner in value if isinstance(inner, Tensor))


def _unwritten(tensor: Tensor) -> Tensor:
    made = empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return made if made.nbytes > KEPT else made.zero_()


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what an operator in place returns: the tensors that it would have written."""
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    names = [argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write]
    found = tuple(given[name] for name in names)
    if not func._schema.returns:
        return None
    return found[0] if len(func._schema.returns) == 1 else found
