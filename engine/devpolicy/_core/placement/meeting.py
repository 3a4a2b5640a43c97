"""Modules outside of blocks whose outputs meet, and so must run on one device.

Owns which these are. accelerate moves the inputs of modules to where they run. What a container computes itself of the
outputs of its children, such as the sum of two embeddings, nobody moves. Structure shows it in most models; `TOGETHER`
has what it does not show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.divide import LISTS, Division, Shape

TOGETHER: Mapping[str, tuple[str, ...]] = {
    # Inputs of each layer are added to a projection; the hidden states of several streams are stacked.
    "Gemma3nTextModel": ("embed_tokens*", "per_layer_*", "altup_*"),
    "Gemma4TextModel": ("embed_tokens*", "per_layer_*"),
    # The norm of the token embeddings comes before the positions are added.
    "BlenderbotSmallEncoder": ("layernorm_embedding",),
    "BlenderbotSmallDecoder": ("layernorm_embedding",),
}
"""Children of a class that must run on one device, where neither their order nor their names show it."""

_ROTARY = ("rotary", "rope")
"""What is made once for all blocks, and handed to them as an argument, which is moved."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Units whose outputs meet, by their positions."""

    units: tuple[int, ...]
    follows: bool
    """Whether what a rule runs somewhere takes the others along. Of a container, rules may run parts elsewhere."""


def meetings(tree: ModelTree, division: Division) -> tuple[Meeting, ...]:
    """Return groups of units that must run on one device, beside the pieces of blocks.

    A container without a block inside is one group. Of a container of blocks one group are the children that are
    registered before its first block, or embed something, or of which `TOGETHER` says so; and its own tensors, with
    all that they meet there. Where a model's class declares no blocks, its code was not written to be divided: of it
    all that is beside the blocks meets.
    """
    return tree.remembered(("meetings", division), lambda: tuple(_meetings(tree, division)))


def _meetings(tree: ModelTree, division: Division) -> Iterator[Meeting]:
    starts = [unit.start for unit in division.units]
    for ranges, follows in _containers(tree, division.shape):
        units = (range(bisect_left(starts, start), bisect_left(starts, end)) for start, end in ranges)
        group = tuple(sorted({at for found in units for at in found}))
        if len(group) > 1:
            yield Meeting(group, follows)


def _containers(tree: ModelTree, shape: Shape) -> Iterator[tuple[list[tuple[int, int]], bool]]:
    """Yield for each container the ranges of modules in it that meet, and whether it is one of blocks."""
    position, count = 1, len(tree.modules)
    yield _meeting_children(tree, shape, 0), True
    while position < count:
        if shape.natural[position]:
            position = tree.subtree_end[position]
        elif not shape.holds_block[position]:
            yield [(position, tree.subtree_end[position])], False
            position = tree.subtree_end[position]
        else:
            yield _meeting_children(tree, shape, position), True
            position += 1


def _meeting_children(tree: ModelTree, shape: Shape, parent: int) -> list[tuple[int, int]]:
    cls = tree.modules[parent].class_name
    if cls in LISTS:
        return []  # its elements run one after the other
    children = list(tree.children(parent))
    of_blocks = [
        shape.holds_block[child] or (shape.is_block[child] and "Embedding" not in tree.modules[child].class_name)
        for child in children
    ]
    first = next((child for child, is_one in zip(children, of_blocks, strict=True) if is_one), 0)
    undeclared = tree.loading.architecture is not None and not tree.no_split
    tensors = tree.modules[parent].tensors
    own = any(tensor.persistent or undeclared for tensor in tensors)
    # A bias that is a buffer is added to what the last child returns.
    added = any(tensor.buffer and tensor.persistent for tensor in tensors)
    plain = [child for child, is_one in zip(children, of_blocks, strict=True) if not is_one]
    found = [child for child in plain if _meets(tree, child, before=added or child < first, own=own)]
    found += [child for child in plain if _is_named(tree, child, TOGETHER.get(cls, ()))]
    found += [child for child in plain if undeclared and tree.subtree_end[child] == child + 1]
    ranges = [(child, tree.subtree_end[child]) for child in sorted(set(found))]
    return [(parent, parent + 1), *ranges] if own else ranges


def _meets(tree: ModelTree, child: int, *, before: bool, own: bool) -> bool:
    """Whether the structure shows that a child's output meets others: before the blocks, or beside own parameters."""
    module = tree.modules[child]
    if any(word in f"{module.path.rpartition('.')[2]} {module.class_name}".lower() for word in _ROTARY):
        return own
    return "Embedding" in module.class_name or (before and "Norm" not in module.class_name)


def _is_named(tree: ModelTree, child: int, patterns: Sequence[str]) -> bool:
    name = tree.modules[child].path.rpartition(".")[2]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
