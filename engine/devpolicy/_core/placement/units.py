"""A model divided into what is placed as a whole.

Owns two things: which rules speak for each module (first match wins, over a module's own path
and its ancestors'), and the division into units: blocks that stay whole, modules, pieces of a block that
a rule cuts, and a container's own tensors. It knows no host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from devpolicy._core.language.policy import Rule
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.matching import match, numbers
from devpolicy._core.placement.sizing import Sizing

Chain = tuple[int, ...]
"""Positions of rules, in written order."""


@dataclass(slots=True)
class Unit:
    """What is placed as a whole: the modules `range(start, end)` of the tree, or one container's own tensors."""

    path: str
    start: int
    end: int
    own_only: bool
    """Only the tensors that the module at `start` holds itself; its children are units of their own."""
    chain: Chain
    """The rules that speak for it, up to the first final one."""
    behind: Chain = ()
    """The rules behind that one, which speak only where it would part tied tensors and is left out."""
    block: int | None = None
    """The position of the block that this is a piece of, where a rule cuts one."""
    stack_end: int = 0
    """For a piece of a block: the position behind the part of the model that runs the blocks, such as `model`."""
    is_block: bool = False
    weights: int = 0
    buffers: int = 0
    kv_cache: int = 0
    streamed: int = 0
    """What is brought in at most at once while the unit is kept elsewhere: a module with those that it stands in."""
    rewritten: int = 0
    """Bytes that the consumer must write out before it can keep the unit on disk."""

    @property
    def resident(self) -> int:
        """Bytes on the device that holds and runs the unit, without KV cache."""
        return self.weights + self.buffers

    def leave_out_first(self, rules: Sequence[Rule]) -> None:
        """Take the first rule of the chain away."""
        self.chain, self.behind = _up_to_final((*self.chain[1:], *self.behind), rules)


@dataclass(slots=True)
class Division:
    """All units in execution order, and which rules matched and decided anything."""

    units: list[Unit]
    matched: dict[int, int] = field(default_factory=dict)
    """For each rule that matches anything: how many modules."""
    speaking: frozenset[int] = frozenset()
    """The sets of rules that speak for modules with tensors, decided or not, as the bits of integers."""


def divide(tree: ModelTree, rules: Sequence[Rule], sizing: Sizing) -> Division:
    """Divide `tree` under `rules`. Linear in modules."""
    natural = _natural_units(tree)
    sizes = _subtree_sums(tree, sizing.weights) if any(rule.size for rule in rules) else []
    matches = match(tree, rules, sizes, natural)
    masks = matches.inherited(tree)
    # Modules with equal masks share one chain, so that chains are compared by identity.
    cut = {mask: _up_to_final(tuple(numbers(mask)), rules) for mask in set(masks)}
    first: dict[Chain, Chain] = {}
    chains = {mask: (first.setdefault(chain, chain), behind) for mask, (chain, behind) in cut.items()}
    speaking = [chains[mask] for mask in masks]
    uniform = _uniform(tree, [chain for chain, _ in speaking])
    units = _collect(tree, sizing, natural, speaking, uniform)
    holding = frozenset(mask for mask, module in zip(masks, tree.modules, strict=True) if module.tensors)
    return Division(units, matches.counts, holding)


_LISTS = frozenset({"ModuleList", "ModuleDict", "Sequential"})


def _is_block(tree: ModelTree, position: int) -> bool:
    """Whether a module is a block: of a no-split class, or where the model names none, an element of a list."""
    cls = tree.modules[position].cls
    if tree.no_split:
        return cls in tree.no_split
    return position > 0 and cls not in _LISTS and tree.modules[tree.parents[position]].cls in _LISTS


def _natural_units(tree: ModelTree) -> list[bool]:
    """Mark the modules that are units where no rule cuts them.

    Blocks (the outermost), and modules without tensors below their own. A container that holds tensors itself
    and has no block inside counts as a block too: its own forward mixes its tensors with its children's
    outputs, which is safe only on one device. Where the model names no no-split classes, every container without a
    block inside does.
    """
    count = len(tree.modules)
    block = [_is_block(tree, position) for position in range(count)]
    holds_block, holds_more = [False] * count, [False] * count
    for position in range(count - 1, 0, -1):
        parent, module = tree.parents[position], tree.modules[position]
        if holds_block[position] or block[position]:
            holds_block[parent] = True
        if holds_more[position] or module.tensors:
            holds_more[parent] = True
    natural = [False] * count
    position = 0
    while position < count:
        module = tree.modules[position]
        mixing = position > 0 and not holds_block[position] and bool(module.tensors or not tree.no_split)
        natural[position] = block[position] or not holds_more[position] or mixing
        position = tree.subtree_end[position] if natural[position] else position + 1
    return natural


def _up_to_final(chain: Chain, rules: Sequence[Rule]) -> tuple[Chain, Chain]:
    """Cut a chain behind its first final rule, so that equal first parts mean equal decisions."""
    final = (length for length, at in enumerate(chain, start=1) if rules[at].on_exhausted == "error")
    length = next(final, len(chain))
    return chain[:length], chain[length:]


def _subtree_sums(tree: ModelTree, own: list[int]) -> list[int]:
    sums = list(own)
    for position in range(len(sums) - 1, 0, -1):
        sums[tree.parents[position]] += sums[position]
    return sums


def _uniform(tree: ModelTree, chains: list[Chain]) -> list[bool]:
    """For each module whether one chain speaks for all of its subtree; equal chains are one object."""
    uniform = [True] * len(chains)
    for position in range(len(chains) - 1, 0, -1):
        parent = tree.parents[position]
        if not uniform[position] or chains[position] is not chains[parent]:
            uniform[parent] = False
    return uniform


def _collect(
    tree: ModelTree,
    sizing: Sizing,
    natural: list[bool],
    chains: list[tuple[Chain, Chain]],
    uniform: list[bool],
) -> list[Unit]:
    """Walk the tree in order and return the units. Iterative: a tree may be deeper than the interpreter's stack."""
    units: list[Unit] = []
    position, count = 0, len(tree.modules)
    block: int | None = None
    block_end = 0
    # A cache may belong to a container that is no unit itself: the next unit takes it.
    loose_cache = 0
    while position < count:
        if position >= block_end:
            block = None
        whole = natural[position] or block is not None
        together = whole and uniform[position]
        if whole and not together and block is None:
            block, block_end = position, tree.subtree_end[position]
        end = tree.subtree_end[position] if together else position + 1
        if any(module.tensors for module in tree.modules[position:end]):
            unit = _unit(tree, sizing, position, end, chains[position])
            unit.block = block
            if block is not None:
                unit.stack_end = tree.subtree_end[max(0, tree.parents[max(0, tree.parents[block])])]
            unit.is_block = natural[position] and end > position + 1
            unit.kv_cache += loose_cache
            loose_cache = 0
            units.append(unit)
        else:
            loose_cache += sum(sizing.kv_cache[position:end])
        position = end
    if units:
        units[-1].kv_cache += loose_cache
    return units


def _unit(tree: ModelTree, sizing: Sizing, start: int, end: int, chain: tuple[Chain, Chain]) -> Unit:
    return Unit(
        tree.modules[start].path,
        start,
        end,
        own_only=end < tree.subtree_end[start],
        chain=chain[0],
        behind=chain[1],
        weights=sum(sizing.weights[start:end]),
        buffers=sum(sizing.buffers[start:end]),
        kv_cache=sum(sizing.kv_cache[start:end]),
        streamed=_most_at_once(tree, sizing, start, end),
        rewritten=sum(sizing.weights[at] for at in range(start, end) if not tree.modules[at].in_place),
    )


def _most_at_once(tree: ModelTree, sizing: Sizing, start: int, end: int) -> int:
    """Bytes brought in at once: accelerate brings in what a module holds itself for as long as its forward runs."""
    within = sizing.whole[start:end]
    for position in range(start + 1, end):
        within[position - start] += within[tree.parents[position] - start]
    return max(within)
