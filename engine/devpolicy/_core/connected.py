"""Groups that share a member are one group.

Owns the union of groups, for tied tensors and for what must share a device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)


def connected_components(groups: Iterable[Sequence[T]], key: Callable[[T], Any] | None = None) -> list[list[T]]:
    """Return `groups` with those that have a member in common made one, each sorted by `key`, in order of the first.

    No group may be empty. Time is near linear in members, but for sorting.
    """
    leader: dict[T, T] = {}

    def find(member: T) -> T:
        while leader.setdefault(member, member) != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    for first, *others in groups:
        ahead = find(first)
        for other in others:
            leader[find(other)] = ahead
    result: dict[T, list[T]] = {}
    for member in sorted(leader, key=key):  # type: ignore[type-var, arg-type]  # without a key, members are ordered
        result.setdefault(find(member), []).append(member)
    return list(result.values())
