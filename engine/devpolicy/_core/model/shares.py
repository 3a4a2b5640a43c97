"""How a group of devices divides the weights that a scheme converts.

Owns the share of one device, and whether a weight has one: packed inputs and blocks are divided whole.
"""

from __future__ import annotations

from dataclasses import replace

from devpolicy._core.loading.quantization import Facts, Scheme, Weight
from devpolicy._core.model.conversion import is_matrix
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import ModelTree, Module, Tensor

_INPUTS_DIVIDED = frozenset(
    ("o_proj", "down_proj", "out_proj", "c_proj", "fc2", "w2", "wo", "dense", "dense_4h_to_h", "linear_2", "proj_out")
)
"""The names of the matrices behind attention and at the end of a block, whose inputs are divided already."""
_KEYS = frozenset(("k_proj", "v_proj"))


def share(weight: Weight, path: str, facts: Facts) -> Weight:
    """Return what one of a group's devices has of a weight; `path` is that of its tensor."""
    if facts.parts == 1:
        return weight
    name = _own_name(path)
    if name in _INPUTS_DIVIDED:
        return replace(weight, columns=-(-weight.columns // facts.parts), inputs_divided=True)
    parts = facts.key_parts if name in _KEYS else facts.parts
    return replace(weight, rows=-(-weight.rows // parts))


def undivided(tree: ModelTree, scheme: Scheme, paths: frozenset[str], facts: Facts) -> str:
    """Return why a group of devices cannot divide a weight, empty where it can divide all."""
    seen = set[tuple[str, tuple[int, ...]]]()
    for module in tree.modules if facts.parts > 1 else ():
        for tensor in module.tensors if module.path in paths else ():
            name = join(module.path, tensor.name)
            if not is_matrix(tensor) or (_own_name(name), tensor.shape) in seen:
                continue
            seen.add((_own_name(name), tensor.shape))
            whole = weight_of(tensor, module, scheme, 2, facts.kind)
            wrong = _uneven(whole, share(whole, name, facts), scheme, "gate_up" in name)
            if wrong:
                return f"{facts.parts} devices do not divide `{name}` evenly: {wrong}"
    return ""


def _uneven(whole: Weight, part: Weight, scheme: Scheme, two: bool) -> str:
    """Return why a part of a weight is not one; `two` are the outputs of two matrices in one."""
    if part.inputs_divided:
        size, all_, each = scheme.whole_inputs, whole.columns, part.columns
        what = "inputs"
    else:
        size, all_, each = scheme.whole_outputs, whole.rows // (2 if two else 1), part.rows // (2 if two else 1)
        what = "outputs"
    if size == 1 or each % size == 0:
        return ""
    return f"each would have {each:,} of its {all_:,} {what}, which is no multiple of {size}"


def _own_name(path: str) -> str:
    """Return the name by which a weight is known: its module's, or its own where a module has several."""
    *_, module, name = ("", *path.split("."))
    return module if name == "weight" else name


def weight_of(tensor: Tensor, module: Module, scheme: Scheme, size: int, kind: str) -> Weight:
    """Return a matrix, or one of those of the experts."""
    rows, columns = tensor.shape[-2:]
    if module.class_name == "Conv1D" or scheme.inputs_first:  # which keep their weights the other way round
        rows, columns = columns, rows
    return Weight(rows, columns, size, kind)
