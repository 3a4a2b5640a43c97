"""A model divided into what is placed as a whole.

Owns two things: which rules match each module (first match wins, over a module's own path and its ancestors'), and
the division into units: blocks that stay whole, modules, pieces of a block that a rule cuts, and a container's own
tensors. It knows no host.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import add

from devpolicy._core.language.policy import Rule
from devpolicy._core.memory.sizing import Sizing
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.matching import match, numbers

LISTS = frozenset({"ModuleList", "ModuleDict", "Sequential"})
"""Classes of containers that compute nothing of their own."""

RulePriority = tuple[int, ...]
"""Positions of rules, in written order."""

Cluster = tuple[int, ...]
"""Positions of units that share a device, in execution order."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the structure of a tree says of each module, whatever the rules say."""

    natural: Sequence[bool]
    """It is placed as a whole where no rule cuts it; of what is inside of such a module, nothing is said."""
    holds_block: Sequence[bool]
    """There is a block inside."""
    is_block: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is placed as a whole: the modules `range(start, end)` of the tree, or one container's own tensors."""

    path: str
    start: int
    end: int
    direct_tensors_only: bool
    """Only the tensors that the module at `start` holds itself; its children are units of their own."""
    rules: RulePriority
    """The rules that match it, up to the first final one."""
    fallback_rules: RulePriority = ()
    """The rules behind that one, which apply only where it would part tied tensors and is left out."""
    block: int | None = None
    """The position of the block that this is a piece of, where a rule cuts one."""
    stack_end: int = 0
    """For a piece of a block: the position behind the part of the model that runs the blocks, such as `model`."""
    is_block: bool = False
    weights: int = 0
    elsewhere: int = 0
    """Bytes of its weights where they are kept elsewhere."""
    buffers: int = 0
    kv_cache: int = 0
    merged: int = 0
    """The largest tensor that loading makes on its device of others, which are there until it is made."""
    onload_peak: int = 0
    """Peak bytes onloaded at once while the unit is offloaded: one module with its ancestors' direct tensors."""
    rewritten: int = 0
    """Bytes that the consumer must write out before it can keep the unit on disk."""
    float32: str = ""
    """A tensor that loading keeps in float32 and that would be read from disk in the model's dtype."""

    @property
    def layer(self) -> int | None:
        """The position of the block that this is, or is a piece of; `None` for all else."""
        return self.start if self.is_block and self.block is None else self.block

    @property
    def resident(self) -> int:
        """Bytes on the device that stores and executes the unit, without KV cache."""
        return self.weights + self.buffers


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """All units in execution order, and which rules matched and decided anything. Each is equal to itself alone."""

    units: tuple[Unit, ...]
    matched: Mapping[int, int]
    """For each rule that matches anything: how many modules."""
    matching_rules: frozenset[int]
    """The sets of rules that match modules with tensors, decided or not, as the bits of integers."""
    shape: Shape
    together: tuple[Cluster, ...]
    """All units by their positions: those of each group that shares a tensor, and the others one by one."""


def divide(tree: ModelTree, rules: Sequence[Rule], sizing: Sizing) -> Division:
    """Divide `tree` under `rules`. Linear in modules."""
    shape = _natural_units(tree)
    natural = shape.natural
    sizes = _subtree_sums(tree, sizing.weights) if any(rule.size for rule in rules) else []
    matches = match(tree, rules, sizes, natural)
    # The rules that match each module or one of its ancestors.
    masks: list[int] = []
    for position, parent in enumerate(tree.parents):
        masks.append(matches.own[position] | (masks[parent] if position else 0))
    # Modules with equal masks share one priority, so that priorities are compared by identity.
    cut = {mask: up_to_final(tuple(numbers(mask)), rules) for mask in set(masks)}
    first: dict[RulePriority, RulePriority] = {}
    of_mask = {mask: (first.setdefault(rules, rules), fallback) for mask, (rules, fallback) in cut.items()}
    priorities = [of_mask[mask] for mask in masks]
    if any(sizing.float32):
        priorities = _float32_apart(sizing, rules, priorities)
    units = _collect(tree, sizing, natural, priorities)
    holding = frozenset(mask for mask, module in zip(masks, tree.modules, strict=True) if module.tensors)
    return Division(tuple(units), matches.counts, holding, shape, tuple((at,) for at in range(len(units))))


def children_of(unit: Unit, tree: ModelTree, sizing: Sizing) -> list[Unit]:
    """Return a unit's modules as units of their own; the unit alone where it holds more than modules without any."""
    starts = [*tree.children(unit.start)]
    if tree.modules[unit.start].tensors or unit.kv_cache or any(tree.subtree_end[at] > at + 1 for at in starts):
        return [unit]

    def child(at: int) -> Unit:
        return replace(
            unit,
            path=tree.modules[at].path,
            start=at,
            end=at + 1,
            is_block=False,
            weights=sizing.weights[at],
            elsewhere=sizing.weights[at] + sizing.more_elsewhere[at],
            buffers=sizing.buffers[at],
            merged=sizing.merged[at],
            onload_peak=sizing.full_weights[at] + sizing.more_elsewhere[at],
        )

    return [child(at) for at in starts if tree.modules[at].tensors]


def with_parts(division: Division, parts: Mapping[int, Sequence[Unit]]) -> Division:
    """Return the division with units in parts, which were placed alone."""
    if not parts:
        return division
    units: list[Unit] = []
    position: dict[int, int] = {}
    for at, unit in enumerate(division.units):
        position[at] = len(units)
        units += sorted(parts.get(at, (unit,)), key=lambda part: part.start)
    whole = [tuple(position[at] for at in group) for group in division.together if group[0] not in parts]
    alone = [(position[at] + number,) for at, of in parts.items() for number in range(len(of))]
    return replace(division, units=tuple(units), together=tuple(sorted((*whole, *alone))))


def with_caches(division: Division, kv_cache: Sequence[int]) -> Division:
    """Return the same units with other caches: of each module, that of the unit it is in, or else of the next one."""
    units, caches = division.units, [0] * len(division.units)
    ends = [unit.end for unit in units]
    for position, size in enumerate(kv_cache):
        if size and units:
            caches[min(bisect_right(ends, position), len(units) - 1)] += size
    changed = (
        unit if unit.kv_cache == size else replace(unit, kv_cache=size)
        for unit, size in zip(units, caches, strict=True)
    )
    return replace(division, units=tuple(changed))


def _float32_apart(
    sizing: Sizing, rules: Sequence[Rule], priorities: list[tuple[RulePriority, RulePriority]]
) -> list[tuple[RulePriority, RulePriority]]:
    """Return priorities that part what a rule keeps on disk from what would be read from there in another dtype."""
    of_disk = {at for at, rule in enumerate(rules) if any(place.type == "disk" for place in rule.offload)}
    apart: dict[RulePriority, RulePriority] = {}
    for position, (priority, fallback) in enumerate(priorities) if of_disk else ():
        if not of_disk.isdisjoint(priority) and sizing.float32[position]:
            # Equal, and another object: priorities are compared by identity.
            priorities[position] = apart.setdefault(priority, (*priority,)), fallback
    return priorities


def up_to_final(priority: RulePriority, rules: Sequence[Rule]) -> tuple[RulePriority, RulePriority]:
    """Cut a priority behind its first final rule, so that equal first parts mean equal decisions."""
    final = (length for length, at in enumerate(priority, start=1) if rules[at].on_exhausted == "error")
    length = next(final, len(priority))
    return priority[:length], priority[length:]


def _blocks(tree: ModelTree, holds_more: Sequence[bool]) -> list[bool]:
    """Mark the blocks: modules of a no-split class, and elements of lists that are alike to them.

    Where the model names no class, every element of a list is a block. Where it names some, it may have forgotten
    others: an element of a list that holds modules and no block, or that is a layer of a stage, which is an element of
    a list itself. And a leaf whose weight is computed of others (`torch.nn.utils.parametrize`) is one module, though it
    has children. `holds_more` says which modules hold modules with tensors.
    """
    modules, parents = tree.modules, tree.parents
    blocks = [module.class_name in tree.no_split for module in modules]
    holds_declared = _holds(tree, blocks)
    in_stage = [False] * len(modules)
    lists = [module.class_name in LISTS for module in modules]
    computed = [module.path.endswith(".parametrizations") for module in modules]
    for position in range(1, len(modules)):
        parent = parents[position]
        element = lists[parent] and not lists[position]
        in_stage[position] = in_stage[parent] or (element and not blocks[position])
        if computed[position]:
            blocks[parent] = True
        elif element and not holds_declared[position]:
            blocks[position] = blocks[position] or not tree.no_split or holds_more[position]
        elif element and in_stage[parent]:
            blocks[position] = True
    return blocks


def _holds(tree: ModelTree, marked: Sequence[bool]) -> list[bool]:
    """Return for each module whether a marked one is inside."""
    holds, parents = [False] * len(marked), tree.parents
    for position in compress(parents, marked):
        while position >= 0 and not holds[position]:
            holds[position] = True
            position = parents[position]
    return holds


def _natural_units(tree: ModelTree) -> Shape:
    """Mark the modules that are units where no rule cuts them.

    Blocks (the outermost), and modules without tensors below their own. A container that holds tensors itself
    and has no block inside counts as a block too: its own forward mixes its tensors with its children's
    outputs, which is safe only on one device. Where the model names no no-split classes, every container without a
    block inside does.
    """
    count = len(tree.modules)
    holds_more = _holds(tree, [bool(module.tensors) for module in tree.modules])
    block = _blocks(tree, holds_more)
    holds_block = _holds(tree, block)
    natural = [False] * count
    position = 0
    while position < count:
        module = tree.modules[position]
        mixing = position > 0 and not holds_block[position] and bool(module.tensors or not tree.no_split)
        natural[position] = block[position] or not holds_more[position] or mixing
        position = tree.subtree_end[position] if natural[position] else position + 1
    return Shape(natural, holds_block, block)


def _subtree_sums(tree: ModelTree, own: list[int]) -> list[int]:
    sums = list(own)
    for position in range(len(sums) - 1, 0, -1):
        sums[tree.parents[position]] += sums[position]
    return sums


def _collect(
    tree: ModelTree, sizing: Sizing, natural: Sequence[bool], priorities: Sequence[tuple[RulePriority, RulePriority]]
) -> list[Unit]:
    """Walk the tree in order and return the units. Iterative: a tree may be deeper than the interpreter's stack."""
    # Equal priorities are one object. The root has no parent, and is compared with the last module: nobody asks.
    differs = [priorities[at][0] is not priorities[parent][0] for at, parent in enumerate(tree.parents)]
    holds_other = _holds(tree, differs)
    holding = [bool(module.tensors) for module in tree.modules]
    elsewhere = [*map(add, sizing.weights, sizing.more_elsewhere)]
    rewritten = [0 if module.in_place else size for module, size in zip(tree.modules, elsewhere, strict=True)]
    units: list[Unit] = []
    position, count = 0, len(tree.modules)
    block: int | None = None
    block_end = 0
    # A cache may belong to a container that is no unit itself: the next unit takes it.
    loose_cache = 0
    while position < count:
        if position >= block_end:
            block = None
        together = (natural[position] or block is not None) and not holds_other[position]
        if natural[position] and not together and block is None:
            block, block_end = position, tree.subtree_end[position]
        end = tree.subtree_end[position] if together else position + 1
        loose_cache += sum(sizing.kv_cache[position:end])
        if True in holding[position:end]:
            rules, fallback_rules = priorities[position]
            units.append(
                Unit(
                    tree.modules[position].path,
                    position,
                    end,
                    direct_tensors_only=end < tree.subtree_end[position],
                    rules=rules,
                    fallback_rules=fallback_rules,
                    block=block,
                    stack_end=0 if block is None else _stack_end(tree, block),
                    is_block=natural[position] and end > position + 1,
                    weights=sum(sizing.weights[position:end]),
                    elsewhere=sum(elsewhere[position:end]),
                    buffers=sum(sizing.buffers[position:end]),
                    kv_cache=loose_cache,
                    merged=max(sizing.merged[position:end]),
                    onload_peak=_onload_peak(tree, sizing, position, end),
                    rewritten=sum(rewritten[position:end]),
                    float32=next(filter(None, sizing.float32[position:end]), ""),
                )
            )
            loose_cache = 0
        position = end
    if units and loose_cache:
        units[-1] = replace(units[-1], kv_cache=units[-1].kv_cache + loose_cache)
    return units


def _stack_end(tree: ModelTree, block: int) -> int:
    """Return the position behind the stack that a block is in."""
    return tree.subtree_end[max(0, tree.parents[max(0, tree.parents[block])])]


def _onload_peak(tree: ModelTree, sizing: Sizing, start: int, end: int) -> int:
    """Bytes onloaded at once: accelerate onloads what a module holds itself for as long as its forward runs."""
    within: list[int] = [*map(add, sizing.full_weights[start:end], sizing.more_elsewhere[start:end])]
    for at, parent in enumerate(tree.parents[start + 1 : end], start=1):
        within[at] += within[parent - start]
    return max(within)
