"""A map from module names to devices.

Owns `DeviceMap`. What the names mean is the consumer's matter: a Hugging Face `device_map` reads them as
dotted module paths, `""` for the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from devpolicy._core.device.single import Device, DeviceType, clip
from devpolicy._core.errors import DeviceError

if TYPE_CHECKING:
    import torch


KEPT_LAST = {DeviceType.CPU.value: 1, DeviceType.DISK.value: 2}
"""Where weights are kept comes behind where modules run: `pipeline()` takes the first value of a map for its device."""


class UnexpectedDeviceError(DeviceError, TypeError):
    """A value in a Hugging Face device map that is no device. A `TypeError` too, as in Haystack."""


class NoSuchEntryError(DeviceError, KeyError):
    """A name that a device map does not have. A `KeyError` too, as in every mapping."""

    __str__ = DeviceError.__str__  # KeyError's would show the message's repr


@dataclass(slots=True)
class DeviceMap:
    """Module names and their devices, in order: `DeviceMap({"model": Device.gpu(0), "lm_head": Device.disk()})`.

    The map owns its `mapping`: it copies the one that it is given. It can be changed (`device_map["lm_head"] =
    Device.cpu()`), so it is not hashable; the one inside a `ComponentDevice` cannot. Two maps are equal whatever
    their order. Raises `DeviceError` for names that are not text and values that are not `Device`.
    """

    mapping: dict[str, Device] = field(default_factory=dict)

    def __setattr__(self, name: str, value: object) -> None:
        # Every way to a new mapping comes through here: construction, assignment, copies, unpickling.
        if name == "mapping":
            if isinstance(getattr(self, "mapping", None), ReadOnlyDict):
                _refuse_change()
            if not isinstance(value, Mapping):
                raise DeviceError(f"a device map maps names to devices, got {type(value).__name__}")
            value = dict(_checked(key, device) for key, device in value.items())
        object.__setattr__(self, name, value)

    def __getitem__(self, key: str) -> Device:
        if key not in self:
            told = f"`{clip(key)}`" if isinstance(key, str) else type(key).__name__
            raise NoSuchEntryError(f"the device map has no entry {told}")
        return self.mapping[key]

    def __setitem__(self, key: str, value: Device) -> None:
        name, device = _checked(key, value)
        self.mapping[name] = device

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self.mapping

    def __len__(self) -> int:
        return len(self.mapping)

    def __iter__(self) -> Iterator[tuple[str, Device]]:
        """Iterate over pairs of name and device, as Haystack's does, not over names."""
        return iter(self.mapping.items())

    @property
    def first_device(self) -> Device | None:
        """The first entry's device, also where it is the disk; `None` for an empty map."""
        return next(iter(self.mapping.values()), None)

    def to_dict(self) -> dict[str, str]:
        """Return `{name: "cuda:1", ...}`, in order, ready for JSON."""
        return {key: str(device) for key, device in self.mapping.items()}

    @staticmethod
    def from_dict(dict: Mapping[str, str]) -> DeviceMap:  # noqa: A002 - Haystack's argument name
        """Read what `to_dict` wrote, in the order given. Raises `DeviceError`."""
        return DeviceMap({key: _entry(key, Device.from_str, text) for key, text in _items(dict)})

    @staticmethod
    def from_hf(hf_device_map: Mapping[str, int | str | torch.device]) -> DeviceMap:
        """Read a Hugging Face device map, such as a loaded model's `hf_device_map`.

        A number means that CUDA device. Raises `DeviceError`, which is a `TypeError` too for a value that is neither
        a number, nor text, nor a `torch.device`. torch need not be installed.
        """
        return DeviceMap({key: _entry(key, _from_hf_value, value) for key, value in _items(hf_device_map)})


class ReadOnlyDict(dict[str, Device]):
    """The mapping of a `DeviceMap` that belongs to a `ComponentDevice`: a `dict` that refuses every change."""

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        _refuse_change()

    __setitem__ = __delitem__ = __ior__ = _refused
    clear = pop = popitem = setdefault = update = _refused  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[type, tuple[dict[str, Device]]]:
        # A copy belongs to whoever made it.
        return dict, (dict(self),)


def read_only(device_map: DeviceMap) -> DeviceMap:
    """Return a checked copy of `device_map` that can be read and not changed. Linear time."""
    copy = DeviceMap(device_map.mapping)
    object.__setattr__(copy, "mapping", ReadOnlyDict(copy.mapping))
    return copy


def _refuse_change() -> NoReturn:
    raise DeviceError(
        "the device map of a component device cannot be changed: change a copy, "
        "`DeviceMap(device_map.mapping)`, and build a new component device from it"
    )


def _items(mapping: object) -> list[tuple[Any, Any]]:
    if not isinstance(mapping, Mapping):
        told = f"`{clip(mapping)}`" if isinstance(mapping, str) else type(mapping).__name__
        raise DeviceError(f"a device map is a dict of names and devices, got {told}")
    return list(mapping.items())


def _entry(key: object, read: Callable[[Any], Device], value: object) -> Device:
    """Read one value. Raises `DeviceError` that names the entry."""
    try:
        return read(value)
    except DeviceError as wrong:
        told = clip(key) if isinstance(key, str) else type(key).__name__
        message = f"{wrong} for '{told}'" if isinstance(wrong, UnexpectedDeviceError) else f"in entry `{told}`: {wrong}"
        raise type(wrong)(message) from None


def _from_hf_value(value: Any) -> Device:
    if isinstance(value, str):
        return Device.from_str(value)
    if isinstance(value, int):
        return Device(DeviceType.GPU, value)
    kind = type(value)
    # Known by name: whoever holds a `torch.device` has torch, and nobody else should have to import it.
    if (kind.__module__, kind.__name__) == ("torch", "device"):
        return Device(DeviceType.from_str(value.type), value.index)
    shown = f"'{value}'" if isinstance(value, float | None) else f"of type {kind.__name__}"
    raise UnexpectedDeviceError(f"Couldn't convert HuggingFace device map - unexpected device {shown}")


def _checked(key: object, device: object) -> tuple[str, Device]:
    if not isinstance(key, str):
        raise DeviceError(f"a device map's names are text, got {type(key).__name__}")
    if not isinstance(device, Device):
        raise DeviceError(
            f"a device map's values are Device objects, got {type(device).__name__} for '{clip(key)}': "
            "DeviceMap.from_dict reads text, DeviceMap.from_hf what Hugging Face has"
        )
    return key, device
