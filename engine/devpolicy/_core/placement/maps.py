"""From units with devices to a device map.

Owns the keys: disjoint, covering every tensor, each the topmost module that lies wholly on one device
and that both Hugging Face readers read alike; and the order of the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from devpolicy._core.device import Device
from devpolicy._core.device.map import KEPT_LAST
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.divide import Unit
from devpolicy._core.placement.readers import contested, misread

_MIXED = -1
_NOTHING = -2


class Key(NamedTuple):
    """A key of a map."""

    text: str
    position: int
    """Of the module that it means or is in."""
    is_tensor: bool
    """Whether it is a tensor of that module."""
    number: int
    """Of its device."""


def device_map(tree: ModelTree, units: Sequence[Unit], devices: Sequence[Device]) -> dict[str, Device]:
    """Return the map of `units`, each on the device of the same position.

    A model that lies wholly on one device gives the one key `""`. Raises `Unsatisfiable` (DP403) where no keys
    are read alike by both readers.
    """
    kinds = list(dict.fromkeys(devices))
    number = {device: at for at, device in enumerate(kinds)}
    own = [_NOTHING] * len(tree.modules)
    for unit, device in zip(units, devices, strict=True):
        own[unit.start : unit.end] = [number[device]] * (unit.end - unit.start)
    for position, module in enumerate(tree.modules):
        if not module.tensors:
            own[position] = _NOTHING
    subtree = _subtrees(tree, own)
    if subtree[0] != _MIXED:
        return {"": kinds[max(0, subtree[0])] if kinds else Device.cpu()}

    # Ordered before it is checked: transformers breaks ties between keys by their order.
    ranks = [entry_rank(device) for device in kinds]
    keys = sorted(_topmost(tree, own, subtree), key=lambda key: ranks[key.number])
    executing = [device for device in kinds if device.type.value not in KEPT_LAST]
    whole = _whole(tree, units) if len(executing) > 1 else [False] * len(own)
    # Ends: each round puts children in place of some keys, and a key without children is refused.
    while wrong := _misread(tree, keys):
        keys = sorted(_deeper(tree, own, subtree, whole, keys, wrong), key=lambda key: ranks[key.number])
    found: dict[str, Device] = {}
    for key in keys:
        if found.setdefault(key.text, kinds[key.number]) != kinds[key.number]:
            # No module of torch has a tensor and a child of one name; what is read from names alone may.
            raise Unsatisfiable(_ambiguous(key.text, [other.text for other in keys]))
    return found


def _whole(tree: ModelTree, units: Sequence[Unit]) -> list[bool]:
    """Mark the modules that are units or in one: with several devices their keys go no deeper.

    accelerate moves inputs where it has a hook. A block whose key is replaced by its children's has none,
    and what comes from the block before would be added to what its children return on another device.
    """
    whole = [False] * len(tree.modules)
    for unit in units:
        if not unit.direct_tensors_only:
            whole[unit.start : unit.end] = [True] * (unit.end - unit.start)
    return whole


def entry_rank(device: Device) -> tuple[int, int]:
    """Sort executing devices by id first, then the CPU, then the disk; `sorted` keeps execution order within each."""
    return KEPT_LAST.get(device.type.value, 0), device.id or 0


def _subtrees(tree: ModelTree, own: list[int]) -> list[int]:
    """The one device of each subtree, or that it has several or no tensors."""
    result = list(own)
    for position in range(len(own) - 1, 0, -1):
        parent, value = tree.parents[position], result[position]
        if value == _NOTHING or result[parent] == value:
            continue
        result[parent] = value if result[parent] == _NOTHING else _MIXED
    return result


def _topmost(tree: ModelTree, own: list[int], subtree: list[int]) -> list[Key]:
    """Return the keys of a model: as few as its devices allow."""
    keys: list[Key] = []
    position = 0
    while position < len(subtree):
        if subtree[position] == _MIXED:
            keys += _own_tensors(tree, own, position)
            position += 1
            continue
        if subtree[position] != _NOTHING:
            keys.append(Key(tree.modules[position].path, position, False, subtree[position]))
        position = tree.subtree_end[position]
    return keys


def _own_tensors(tree: ModelTree, own: list[int], position: int) -> Iterator[Key]:
    module = tree.modules[position]
    for tensor in module.tensors:
        yield Key(join(module.path, tensor.name), position, True, own[position])


def _deeper(
    tree: ModelTree, own: list[int], subtree: list[int], whole: list[bool], keys: list[Key], wrong: set[str]
) -> Iterator[Key]:
    """Yield the keys with those in `wrong` replaced by their children's. Raises DP403 where one has none."""
    for key in keys:
        if key.text not in wrong:
            yield key
            continue
        children = [child for child in tree.children(key.position) if subtree[child] != _NOTHING]
        if key.is_tensor or not children or whole[key.position]:
            raise Unsatisfiable(_ambiguous(key.text, [other.text for other in keys]))
        yield from _own_tensors(tree, own, key.position)
        yield from (Key(tree.modules[child].path, child, False, subtree[child]) for child in children)


def _misread(tree: ModelTree, keys: Sequence[Key]) -> set[str]:
    """Return the keys of which transformers would find a tensor under another."""
    texts = [key.text for key in keys]
    doubtful = contested(texts)
    return misread(texts, _tensors(tree, [key for key in keys if key.text in doubtful])) if doubtful else set()


def _tensors(tree: ModelTree, keys: Sequence[Key]) -> Iterator[tuple[str, str]]:
    for key in keys:
        if key.is_tensor:
            yield key.text, key.text
            continue
        for module in tree.modules[key.position : tree.subtree_end[key.position]]:
            prefix = f"{module.path}." if module.path else ""
            for tensor in module.tensors:
                yield prefix + tensor.name, key.text


def _ambiguous(key: str, keys: Sequence[str]) -> Diagnostic:
    other = next((one for one in keys if one != key and len(one) <= len(key) + 1 and _resembles(one, key)), None)
    because = f", because the key `{other}` matches it too" if other else ""
    return Diagnostic(
        "DP403",
        f"transformers and accelerate would read the device map differently for `{key}`{because}",
        help="place both modules on one device, or rename one of them",
    )


def _resembles(pattern: str, text: str) -> bool:
    return all(a in (b, ".") for a, b in zip(pattern, text, strict=False))
