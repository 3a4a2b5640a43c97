"""bitsandbytes: the tensors that it makes once on the device that asks first, and its kernels.

Owns where its operators run for a simulated GPU: its CUDA kernels call a compiled library that has no GPU here, so they
run on the CPU, with its own kernels for it, and what they return is put on the simulated device. At depth `phantom`,
where values are not there, only the results' shapes are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.patched_libraries.constants import KeptDict
from devpolicy._core.simulation.running import paused, running

_PREFIX = "bitsandbytes::"
_redirected: list[Any] = []
"""torch's handle of the registrations, which end with it."""


def _redirect(value: Any) -> Any:
    """Register the kernels, once, and return the attribute as it is: nothing of the module itself is replaced.

    A build of torch whose devices are simulated has no CUDA, so nothing that ran before is lost.
    """
    import torch

    with paused():  # what the build of torch has, not the simulated one
        real = torch.version.cuda or torch.version.hip
    if _redirected or real:
        return value
    made: Any = torch.library.Library  # which has no types
    library = made(_PREFIX.rstrip(":"), "IMPL", "CUDA")
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith(_PREFIX):
            short = name.removeprefix(_PREFIX)
            operator, _, overload = short.partition(".")
            kernel = getattr(getattr(torch.ops.bitsandbytes, operator), overload or "default")
            library.impl(short, _kernel(kernel, torch, writes=overload == "out"), allow_override=True)
    _redirected.append(library)
    return value


def _kernel(operator: Callable[..., Any], torch: Any, *, writes: bool) -> Callable[..., Any]:
    """Return what runs an operator elsewhere and brings its results back; one that `writes` has them as an argument."""
    from torch.utils._pytree import tree_leaves, tree_map_only

    def run(*args: Any, **kwargs: Any) -> Any:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        simulation = running()
        phantom = simulation is not None and simulation.backend is not None and simulation.backend.depth == "phantom"
        where = torch.device("meta" if phantom else "cpu")
        moved_args, moved = tree_map_only(torch.Tensor, lambda one: _moved(one, where, torch), (args, kwargs))
        result = operator(*moved_args, **moved)
        if writes:
            if not phantom:
                given[-1].copy_(next(one for one in reversed(tree_leaves((moved_args, moved))) if _is(one, torch)))
            return None
        return tree_map_only(torch.Tensor, lambda one: _moved(one, given[0].device, torch), result)

    return run


def _is(value: Any, torch: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _moved(tensor: Any, device: Any, torch: Any) -> Any:
    """Return a tensor on a device; from or to one without values only its shape."""
    if "meta" in (device.type, tensor.device.type):
        return torch.empty_like(tensor, device=device)
    return tensor.to(device)


LIBRARY = Library(
    constants={
        "bitsandbytes.functional": {"name2qmap": KeptDict},
        # The operators are there once this module is.
        "bitsandbytes._ops": {"register_kernel": _redirect},
    }
)
