"""Torch's own database of operators, run on a simulated GPU and on the CPU.

python -m tests.testing.deep.operators [--samples N]

compares every operator. What differs stands in `EXCEPTIONS` with its reason; results that torch leaves undefined are
compared by shape, dtype and device.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.utils._pytree as tree
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import SEED, set_rng_seed

from devpolicy.testing import simulate_host

GPU = "cuda:0"

UNDEFINED = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
"""Operators whose values torch leaves undefined."""

NOT_COMPARABLE = {
    "to": "its samples name the CPU as the target",
    "as_strided.partial_views": "its samples are views, whose storage is another when they are moved",
}
EXCEPTIONS = {
    "sparse.mm.reduce": "torch has no kernel of it for a GPU",
    "tensor_split": "torch wants its indices on the CPU, on a real GPU too",
}
"""Operators that do not run on a simulated GPU, with the reason."""

GRADIENT_EXCEPTIONS = {"renorm": "its formula for GPUs sums in float32 where that for CPUs sums in float64"}
"""Operators whose gradients differ beside these, with the reason."""


def name_of(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def operators() -> list[Any]:
    """Return the operators that take float32 on a CPU, and are no CUDA code."""
    return [op for op in op_db if torch.float32 in op.dtypes and not op.name.startswith("jiterator")]


def samples_of(op: Any, *, grad: bool = False) -> Iterator[Any]:
    """Yield an operator's samples, each made from the same seed.

    `op.sample_inputs` does the same, and looks for a unittest in the whole stack each time: ten times the work, under
    pytest, of what is compared.
    """
    samples = iter(op.sample_inputs_func(op, "cpu", torch.float32, grad))
    while True:
        set_rng_seed(SEED)
        if (sample := next(samples, None)) is None:
            return
        yield sample


def moved(values: Any, device: str, *, grad: bool = False) -> Any:
    """Return arguments with their tensors, and the devices that they name, on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            there = value.detach().to(device, copy=True)  # some operators change what they are given
            return there.requires_grad_() if grad and value.requires_grad else there
        return torch.device(device) if isinstance(value, torch.device) else value

    found = tree.tree_map(move, values)
    if isinstance(found, dict) and "device" in found:
        found["device"] = device
    return found


def outcome(op: Any, sample: Any, device: str, *, grad: bool = False) -> Any:
    """Return the result of one sample on a device, or its gradients."""
    torch.manual_seed(0)
    given, args, kwargs = (moved(values, device, grad=grad) for values in (sample.input, sample.args, sample.kwargs))
    if not grad:
        with torch.no_grad():
            return op(given, *args, **kwargs)
    results = [each for each in tree.tree_leaves(op(given, *args, **kwargs)) if isinstance(each, torch.Tensor)]
    inputs = [each for each in tree.tree_leaves((given, args, kwargs)) if isinstance(each, torch.Tensor)]
    return torch.autograd.grad(
        sum(each.sum() for each in results if each.requires_grad),
        [each for each in inputs if each.requires_grad],
        allow_unused=True,
    )


def difference(expected: Any, found: Any, *, values: bool = True) -> str | None:
    """Return how the result of the GPU differs from the CPU's, `None` where it does not."""
    pairs = list(zip(tree.tree_leaves(expected), tree.tree_leaves(found), strict=True))
    return next((told for one, other in pairs if (told := _difference(one, other, values))), None)


def _difference(one: Any, other: Any, values: bool) -> str | None:
    if not isinstance(one, torch.Tensor):
        same = one == other or (isinstance(one, float) and math.isnan(one)) or isinstance(one, torch.device)
        return None if same else f"{one!r} is {other!r}"
    if other.device != torch.device(GPU):
        return f"it is on {other.device}"
    if (told := _form(one)) != (found := _form(other)):
        return f"{told} is {found}"
    one, there = one.to_dense(), other.cpu().to_dense()
    nan = one.isnan() & there.isnan()
    return "its values differ" if values and not bool(((one == there) | nan).all()) else None


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    strides = tensor.stride() if tensor.layout == torch.strided else ()
    return tensor.shape, tensor.dtype, tensor.layout, strides


RETRIES = 8
"""LAPACK's last bits depend on where its buffers lie, so a CPU differs from itself at times: a systematic difference
is one that stays."""


def compare(op: Any, samples: int, *, grad: bool = False) -> str | None:
    """Compare some samples: `None` where all are equal, `"no samples"`, or how one differs."""
    seen = 0
    for sample in islice(samples_of(op, grad=grad), samples):
        for _ in range(RETRIES):
            try:
                expected = outcome(op, sample, "cpu", grad=grad)
            except Exception:  # noqa: BLE001 - what a CPU cannot do is not compared
                break
            told = _on_gpu(op, sample, expected, grad)
            if told is None:
                seen += 1
                break
        else:
            return told
    return None if seen else "no samples"


def _on_gpu(op: Any, sample: Any, expected: Any, grad: bool) -> str | None:
    with simulate_host("1x24gb", depth="tensors"):
        try:
            found = outcome(op, sample, GPU, grad=grad)
            return difference(expected, found, values=name_of(op) not in UNDEFINED)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the difference
            return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


def comparison(samples: int, *, grad: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield each operator's name with how it differs."""
    for op in operators():
        if name_of(op) in NOT_COMPARABLE or (grad and not op.supports_autograd):
            continue
        yield name_of(op), compare(op, samples, grad=grad)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--samples", type=int, default=10_000, metavar="N", help="at most so many of each operator")
    samples = arguments.parse_args().samples
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for grad in (False, True):
        found = list(comparison(samples, grad=grad))
        kinds = Counter("equal" if told is None else told if told == "no samples" else "other" for _, told in found)
        print(f"{'gradients' if grad else 'inference'}: {dict(kinds)}")
        for name, told in found:
            if told and told != "no samples":
                print(f"  {name}: {told}")


if __name__ == "__main__":
    main()
