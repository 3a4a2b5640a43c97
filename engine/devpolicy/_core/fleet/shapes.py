"""How many copies of a component go to each node: `nodes = "pack"` fills machines, `"spread"` uses many.

Owns the order in which such shapes are preferred. Packed: the fewest nodes, of these the fullest first; spread: the
most even; then the smallest nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from devpolicy._core.language.nodes import Nodes

MOST_SHAPES = 512
"""Of more shapes only few are tried: the one that takes nodes in turn, and that without each of the nodes."""

Copies = tuple[tuple[int, int], ...]
"""The numbers of nodes, each with how many copies are on it."""
Cost = tuple[Any, ...]
"""What is compared between two ways to divide copies over nodes: the less the better. It has no names of nodes."""


class Room(NamedTuple):
    """A node, by its number, its rank among the sizes of nodes, and how many copies have a place on it."""

    node: int
    rank: int
    copies: int
    alike: object = None
    """Equal for nodes that are alike: of them the first never has fewer copies."""


class Shape(NamedTuple):
    """One way to divide copies over nodes."""

    cost: Cost
    copies: Copies


class Shapes(NamedTuple):
    """Ways to divide copies over nodes, the preferred ones first."""

    in_turn: Sequence[Shape] = ()
    whole: bool = True
    """Whether these are all."""


def shapes(rooms: Sequence[Room], wanted: int, nodes: Nodes) -> Shapes:
    """Return the ways to divide copies over nodes; of more than `MOST_SHAPES` a few."""
    if sum(room.copies for room in rooms) < wanted:
        return Shapes()
    groups: dict[object, list[Room]] = {}
    for room in rooms:
        groups.setdefault(room.node if room.alike is None else room.alike, []).append(room)
    ranks = {room.node: room.rank for room in rooms}
    every = list(islice(_every([room for group in groups.values() for room in group], wanted), MOST_SHAPES + 1))
    whole = len(every) <= MOST_SHAPES
    if not whole:
        take = _packed if nodes == "pack" else _spread
        # What is beside them may need one node for itself.
        without = ([room for room in rooms if room is not one] for one in rooms)
        fewer = (left for left in without if sum(room.copies for room in left) >= wanted)
        every = list(dict.fromkeys([take(rooms, wanted), *(take(left, wanted) for left in islice(fewer, MOST_SHAPES))]))
    found = sorted(Shape(_cost(copies, ranks, nodes), tuple(sorted(copies))) for copies in every)
    return Shapes(found, whole)


def _cost(copies: Copies, ranks: Mapping[int, int], nodes: Nodes) -> Cost:
    counts = sorted((count for _, count in copies), reverse=True)
    where = sorted((ranks[node], count) for node, count in copies)
    return (len(counts), [-count for count in counts], where) if nodes == "pack" else (counts, where)


def _every(rooms: Sequence[Room], wanted: int, before: Room | None = None) -> Iterator[Copies]:
    """Yield every way, given the room before with the copies that it was given."""
    if not wanted:
        yield ()
    if not wanted or sum(room.copies for room in rooms) < wanted:
        return
    first, rest = rooms[0], rooms[1:]
    most = min(first.copies, wanted)
    if before is not None and before.alike is not None and before.alike == first.alike:
        most = min(most, before.copies)
    for count in range(most, -1, -1):
        for others in _every(rest, wanted - count, first._replace(copies=count)):
            yield ((first.node, count), *others) if count else others


def _packed(rooms: Sequence[Room], wanted: int) -> Copies:
    """Fill the nodes with the most room first."""
    shape = []
    for room in sorted(rooms, key=lambda room: (-room.copies, room.node)):
        count = min(room.copies, wanted)
        if count:
            shape.append((room.node, count))
        wanted -= count
    return tuple(shape)


def _spread(rooms: Sequence[Room], wanted: int) -> Copies:
    """Give each node one copy, the smallest first, and begin again until all have a place."""
    counts = dict.fromkeys((room.node for room in rooms), 0)
    while wanted:
        for room in rooms:
            if wanted and counts[room.node] < room.copies:
                counts[room.node] += 1
                wanted -= 1
    return tuple((node, count) for node, count in counts.items() if count)
