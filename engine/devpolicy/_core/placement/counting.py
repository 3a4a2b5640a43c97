"""Whether rooms hold clusters, by how many there are of each size.

Owns what numbers alone say: layers are alike, so a model has many clusters and few sizes. `packing` searches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from math import prod
from operator import add, mul
from typing import Any

WAYS = 2_000
"""Ways of filling one room that are looked at, at most, however many rooms: one more takes nothing back."""
_Way = tuple[Any, tuple[int, ...], int] | None
"""The way to the rooms before, and what one room holds of the rarer sizes and of the commonest."""


def are_too_much(counts: Mapping[int, int], rooms: Collection[int]) -> bool:
    """Whether sums alone show that rooms do not hold so many clusters of each size, in any order."""
    if sum(size * count for size, count in counts.items()) > sum(rooms):
        return True
    # As many as fit of the commonest size are no more than fit of those that are larger.
    size = max(counts, key=counts.__getitem__, default=0)
    if not size:
        return False
    spare = sum(room // size for room in rooms) - sum(count for one, count in counts.items() if one >= size)
    # Smaller ones take what those leave over in each room, and the places of those that are not there.
    beside = (
        sum(room % size // smaller for room in rooms) + spare * -(-size // smaller)
        - sum(count for one, count in counts.items() if smaller <= one < size)
        for smaller in counts
        if 0 < smaller < size
    )  # fmt: skip
    return spare < 0 or any(left < 0 for left in beside)


def can_be_counted(counts: Mapping[int, int]) -> bool:
    """Whether the ways of filling rooms are so few that `filled` looks at all of them."""
    rarer = sorted(counts.values())[:-1]
    return 0 not in counts and prod((count + 1) * (count + 2) // 2 for count in rarer) <= WAYS


def filled(counts: Mapping[int, int], rooms: Sequence[int]) -> list[dict[int, int]] | None:
    """Return how many clusters of each size each room holds, `None` where rooms hold them in no way at all.

    Whatever a room holds of the rarer sizes, the commonest fills it up. So what matters of the rooms before is how many
    of each rarer size they hold, and the most of the commonest that they hold beside these.
    """
    *rarer, common = sorted(counts, key=lambda size: (counts[size], size))
    wanted = tuple(counts[size] for size in rarer)
    # By what the rooms before hold of the rarer sizes: the most of the commonest, and the way there.
    most: dict[tuple[int, ...], tuple[int, _Way]] = {(0,) * len(rarer): (0, None)}
    for room in rooms:
        behind: dict[tuple[int, ...], tuple[int, _Way]] = {}
        for held, (before, way) in most.items():
            for more in product(*(range(count - have + 1) for have, count in zip(held, wanted, strict=True))):
                spare = room - sum(map(mul, rarer, more))
                together = tuple(map(add, held, more))
                if spare >= 0 and before + spare // common > behind.get(together, (-1,))[0]:
                    behind[together] = before + spare // common, (way, more, spare // common)
        most = behind
    left, (reached, way) = counts[common], most.get(wanted, (-1, None))
    if reached < left:
        return None
    each: list[dict[int, int]] = []
    while way is not None:
        way, more, most_of_common = way
        each.append({**dict(zip(rarer, more, strict=True)), common: min(left, most_of_common)})
        left -= each[-1][common]
    return each[::-1]
