"""Strategies for devices, device maps and component devices.

All arguments are keyword-only bounds. Values shrink along the order of their types, by default cpu, mps, xpu, cuda,
towards no id, then id 0, and maps towards few entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.device import LARGEST_ID, ComponentDevice, Device, DeviceMap, DeviceType

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = ("cpu", "mps", "xpu", "cuda")
"""The default types, simplest first."""

_WITHOUT_ID = (DeviceType.CPU, DeviceType.DISK)
_SEGMENTS = ("model", "lm_head", "embed_tokens", "layers", "norm", "0", "1", "10", "self_attn", "mlp", "experts")


def devices(
    *, types: Sequence[str] = TYPES, min_id: int | None = None, max_id: int = 3, disk: bool = False
) -> st.SearchStrategy[Device]:
    """Return a strategy for `Device`.

    `types` in the order in which they shrink, first to simplest; `disk` adds the disk behind them. Ids lie between 0
    and `max_id` (at most 127); where `min_id` is `None` there may also be none, else they are at least `min_id`. The
    CPU and the disk have none.
    """
    kinds = [_type(name) for name in types]
    if disk and DeviceType.DISK not in kinds:
        kinds.append(DeviceType.DISK)
    if not kinds:
        raise InvalidArgument("types is empty and disk is false: no device is left")
    if (min_id or 0) not in range(max_id + 1) or max_id > LARGEST_ID:
        raise InvalidArgument(f"ids must satisfy 0 <= min_id <= max_id <= {LARGEST_ID}, got {min_id} and {max_id}")
    numbers = st.integers(min_id or 0, max_id)
    ids: st.SearchStrategy[int | None] = numbers if min_id is not None else st.none() | numbers

    def with_id(kind: DeviceType) -> st.SearchStrategy[Device]:
        return st.just(Device(kind)) if kind in _WITHOUT_ID else st.builds(Device, st.just(kind), ids)

    return st.sampled_from(kinds).flatmap(with_id)


def device_maps(
    *,
    min_size: int = 1,
    max_size: int = 6,
    types: Sequence[str] = TYPES,
    max_id: int = 3,
    disk: bool = True,
    names: st.SearchStrategy[str] | None = None,
) -> st.SearchStrategy[DeviceMap]:
    """Return a strategy for `DeviceMap` of `min_size` to `max_size` entries.

    `names` generates the module names; by default dotted paths such as `model.layers.0`, and rarely `""`. They may
    nest, and a map may hold disk entries only: a plan never has either, a map that a user wrote may.
    """
    if not 0 <= min_size <= max_size:
        raise InvalidArgument(f"sizes must satisfy 0 <= min_size <= max_size, got {min_size} and {max_size}")
    paths = st.lists(st.sampled_from(_SEGMENTS), max_size=4).map(".".join) if names is None else names
    values = devices(types=types, max_id=max_id, disk=disk)
    return st.dictionaries(paths, values, min_size=min_size, max_size=max_size).map(DeviceMap)


def component_devices(
    *, types: Sequence[str] = TYPES, max_id: int = 3, multiple: bool | None = None, max_size: int = 6, disk: bool = True
) -> st.SearchStrategy[ComponentDevice]:
    """Return a strategy for `ComponentDevice`.

    `multiple` asks for maps only or for single devices only; by default both, and single devices are simpler. `disk`
    allows disk entries in maps; a map made here always has an entry that something can run on.
    """
    single = devices(types=types, max_id=max_id).map(ComponentDevice.from_single)
    maps = device_maps(min_size=1, max_size=max_size, types=types, max_id=max_id, disk=disk)
    usable = maps.filter(lambda entries: any(device.type is not DeviceType.DISK for _, device in entries))
    if multiple is None:
        return single | usable.map(ComponentDevice.from_multiple)
    return usable.map(ComponentDevice.from_multiple) if multiple else single


def _type(name: str) -> DeviceType:
    try:
        return DeviceType.from_str(name)
    except ValueError as wrong:
        raise InvalidArgument(str(wrong)) from None
