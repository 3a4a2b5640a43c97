"""`torch.cuda.FloatTensor` and its like: constructors that raise in a CPU build.

Owns the classes that take their place where devices hold tensors.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.patched_libraries import Around, Library
from devpolicy._core.simulation.patched_libraries.torch_refused import refuse
from devpolicy._core.simulation.running import running
from devpolicy._core.simulation.tensor_backend import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.running import Simulation

NAMES = tuple(
    f"{name}Tensor" for name in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
)


class _Typed(type):
    """The type of a class that replaces one of torch's. torch's own functions take a type by its name."""

    original: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        simulation = running()
        if simulation is None:
            return cls.original(*args, **kwargs)
        if simulation.backend is None:
            refuse(simulation, "cuda", f"{cls.__name__}()")
        return (_sparse if ".sparse." in cls.__name__ else _dense)(cls.original.dtype, *args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.original, name)


def _dense(dtype: Any, *args: Any, device: Any = "cuda") -> Any:
    """Return what the constructor makes: a tensor of sizes, of a sequence, of a storage, or of a tensor's values."""
    import torch

    if all(isinstance(size, int) for size in args):
        return torch.empty(args or (0,), dtype=dtype, device=device)
    (given,) = args
    if isinstance(given, torch.Size):
        return torch.empty(given, dtype=dtype, device=device)
    if isinstance(given, torch.Tensor):
        if given.dtype != dtype or given.device.type not in KINDS:
            raise TypeError(f"expected {dtype} of a CUDA device (got {given.type()})")
        return given.view_as(given)
    if isinstance(given, torch.UntypedStorage | torch.TypedStorage):
        untyped: Any = given
        if isinstance(given, torch.TypedStorage):
            untyped = untyped.untyped()
        return torch.empty(0, dtype=dtype, device=untyped.device).set_(untyped)
    return torch.tensor(given, dtype=dtype, device=device)


def _sparse(dtype: Any, *args: Any) -> Any:
    """Return a sparse tensor of indices and values, with a size or without, or an empty one of sizes."""
    import torch

    make: Any = torch.sparse_coo_tensor
    if args and isinstance(args[0], torch.Tensor):
        indices, values, *size = args
        return make(indices, values, *size, dtype=dtype, device=values.device)
    (sizes,) = args if len(args) == 1 and not isinstance(args[0], int) else (args,)
    return make(size=tuple(sizes), dtype=dtype, device="cuda")


def _typed(module: str, original: Any) -> type:
    return _Typed(f"{module}.{original.__name__.rpartition('.')[2]}", (), {"original": original})


def _set_default_type(simulation: Simulation, original: Callable[[Any], None], type_: Any) -> None:
    """Set the default type, which for one of CUDA's is a default device and a dtype."""
    import torch

    named = type_ if isinstance(type_, str) else getattr(type_, "__name__", "")
    of_cuda = str(named).startswith("torch.cuda.")
    if not of_cuda:
        if _set_default_type in simulation.memo:
            del simulation.memo[_set_default_type]
            torch.set_default_device(None)
        original(type_)
        return
    name = str(named).rpartition(".")[2]
    before = torch.get_default_dtype()
    simulation.restore.append(partial(torch.set_default_dtype, before))
    torch.set_default_dtype(getattr(torch, name).dtype)
    torch.set_default_device("cuda")
    simulation.memo[_set_default_type] = {}


LIBRARY = Library(
    classes={
        module: {name: partial(_typed, module) for name in NAMES} for module in ("torch.cuda", "torch.cuda.sparse")
    },
    tensors={"torch": {"set_default_tensor_type": Around(_set_default_type)}},
)
