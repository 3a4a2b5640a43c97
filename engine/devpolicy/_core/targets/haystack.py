"""Haystack's own device object.

Owns the way from and to `haystack.utils.ComponentDevice`, through dict forms alone, and the callback that keeps the
order of saved maps. What components take is known to `haystack_components`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devpolicy._core.device import ComponentDevice
from devpolicy._core.errors import DeviceError, DevPolicyWarning, MissingLibraryError
from devpolicy._core.public import public
from devpolicy._core.targets.haystack_components.forms import rewritten, with_order
from devpolicy._core.targets.haystack_components.table import KWARGS

if TYPE_CHECKING:
    from haystack.utils import ComponentDevice as HaystackDevice


@public("devpolicy.haystack")
def to_haystack(device: ComponentDevice) -> HaystackDevice:
    """Return Haystack's own object of the same value, which every component accepts.

    Raises `DeviceError` for a device that this Haystack does not know (npu, hpu), and `MissingLibraryError` without
    Haystack. Warns where the map would not survive `Pipeline.dumps`, which sorts names: `pipeline()` takes the first
    value for its device, and a disk is none.
    """
    if not isinstance(device, ComponentDevice):
        raise DeviceError(f"a component device of devpolicy is expected, got {_path(device)}")
    converted = unwarned(device)
    entries = device.to_dict().get("device_map", {})
    if entries and entries[min(entries)] == "disk" and set(entries.values()) != {"disk"}:
        warnings.warn(
            f"`{min(entries)}` is on the disk and comes first when a pipeline is saved, because names are then sorted: "
            "load the pipeline with the callback devpolicy.haystack.restore_order",
            DevPolicyWarning,
            stacklevel=3,  # past ComponentDevice.to_haystack, the usual way here
        )
    return converted


@public("devpolicy.haystack")
def from_haystack(device: HaystackDevice) -> ComponentDevice:
    """Return the value of Haystack's own object. Raises `DeviceError` where it holds what no library can use.

    A map's disk entries come last, as in `ComponentDevice.from_dict`.
    """
    theirs = _their_class()
    if not isinstance(device, theirs):
        raise DeviceError(f"Haystack's ComponentDevice is expected, got {_path(device)}")
    try:
        saved = device.to_dict()
    except Exception as broken:  # noqa: BLE001 - unchecked when it was made, so it fails here in any way
        raise DeviceError(
            f"this object of Haystack holds no device: {type(broken).__name__} {broken}".rstrip()
        ) from None
    return ComponentDevice.from_dict(saved)


@public("devpolicy.haystack")
def restore_order(name: str, component: type, init_params: dict[str, Any]) -> None:
    """Put the disk entries of every device map last, then cpu's before them: a `component_pre_init` callback.

    Saving sorts a map by name, and `pipeline()` takes its first value. Treats every init parameter that is a device,
    and a `device_map` inside the Hugging Face keyword arguments.
    """
    del name, component
    theirs = _their_class()
    for key, value in init_params.items():
        if isinstance(value, theirs) and value.has_multiple_devices:
            init_params[key] = unwarned(from_haystack(value))
        elif key in KWARGS and isinstance(value, Mapping):
            init_params[key] = rewritten(value, with_order)


def _their_class() -> type[HaystackDevice]:
    try:
        from haystack.utils import ComponentDevice as Theirs
    except ImportError as missing:
        raise MissingLibraryError(
            'Haystack 2.31 or newer is not installed: run `pip install "devpolicy[haystack]"`'
        ) from missing
    return Theirs


def _path(value: Any) -> str:
    """Return the path of a value's class: the name alone is the same for both."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def unwarned(device: ComponentDevice) -> HaystackDevice:
    """Return what `to_haystack` does, for a map that is put into order again whenever it is loaded."""
    theirs = _their_class()
    try:
        return theirs.from_dict(device.to_dict())
    except ValueError as refused:
        raise DeviceError(f"this Haystack cannot express the device: {refused}") from None
