"""Modules that differ only in numbers, written once: `model.layers.{0..38}`.

Owns the way from many paths to few patterns, in the notation of a policy's own `match`, so that what is shown can be
copied into a rule. It depends on neither models nor plans.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

from devpolicy._core.ranges import number_of, write_range

K = TypeVar("K", bound=Hashable)

_Box = tuple[tuple[int, int], ...]
"""The ranges of one pattern, one for each number in its paths."""


class Row(NamedTuple, Generic[K]):
    """The paths that one pattern matches."""

    pattern: str
    key: K
    paths: tuple[str, ...]


def collapse_ranges(paths: Iterable[tuple[str, K]]) -> list[Row[K]]:
    """Return rows that cover exactly `paths`, each path in one row and with its key, in order of first appearance.

    Paths must be distinct. Time is linear in paths but for sorting.
    """
    groups: dict[tuple[tuple[str | None, ...], K], dict[_Box, str]] = {}
    order: dict[str, int] = {}
    for path, key in paths:
        order[path] = len(order)
        parts = path.split(".")
        numbers = [number_of(part) for part in parts]
        shape = tuple(part if number is None else None for part, number in zip(parts, numbers, strict=True))
        spot = tuple((number, number) for number in numbers if number is not None)
        groups.setdefault((shape, key), {})[spot] = path
    rows = []
    for (shape, key), members in groups.items():
        boxes: dict[_Box, list[str]] = {spot: [path] for spot, path in members.items()}
        # The innermost numbers first: `layers.{0..31}.experts.{0..7}`.
        for axis in reversed(range(shape.count(None))):
            boxes = _merged(boxes, axis)
        rows += [
            Row(_pattern(shape, box), key, tuple(sorted(inside, key=order.__getitem__)))
            for box, inside in boxes.items()
        ]
    return sorted(rows, key=lambda row: order[row.paths[0]])


def _merged(boxes: dict[_Box, list[str]], axis: int) -> dict[_Box, list[str]]:
    """Merge boxes that are neighbours along one axis and alike in all others."""
    result: dict[_Box, list[str]] = {}
    open_boxes: dict[tuple[object, ...], _Box] = {}
    for box in sorted(boxes, key=lambda box: box[axis]):
        others = (*box[:axis], *box[axis + 1 :])
        before = open_boxes.get(others)
        merged = box
        if before is not None and before[axis][1] + 1 == box[axis][0]:
            merged = (*box[:axis], (before[axis][0], box[axis][1]), *box[axis + 1 :])
            result[merged] = result.pop(before)
            result[merged] += boxes[box]
        else:
            result[box] = list(boxes[box])
        open_boxes[others] = merged
    return result


def _pattern(shape: tuple[str | None, ...], box: _Box) -> str:
    ranges = iter(box)
    return ".".join(write_range(*next(ranges)) if part is None else part for part in shape)
