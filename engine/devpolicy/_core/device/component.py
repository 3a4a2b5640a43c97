"""The device of a component: one device, or a map, and what each library takes for it.

Owns `ComponentDevice`, with Haystack's own conversions. What a consumer refuses beside its form (tied
weights, cut blocks) is the planner's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.device.map import KEPT_LAST, DeviceMap, read_only
from devpolicy._core.device.single import Device, DeviceType, clip
from devpolicy._core.errors import DeviceError, MissingLibraryError

if TYPE_CHECKING:
    from os import PathLike

    import torch

    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy

_SPACY = {DeviceType.CPU: -1, DeviceType.GPU: 0, DeviceType.MPS: 0}
"""spaCy's id where the device has none. `require_gpu` ignores the number on a Mac and takes mps."""


@dataclass(frozen=True, slots=True)
class ComponentDevice:
    """Where a component runs: one device, or a map of its modules. Immutable and hashable.

    Build it with `from_str`, `from_single`, `from_multiple`, `from_dict` or `from_policy`. Exactly one of the two
    fields is set; a map is copied, is not empty, and cannot be changed afterwards. Raises `DeviceError`.
    """

    _single_device: Device | None = None
    _multiple_devices: DeviceMap | None = None

    def __post_init__(self) -> None:
        single, multiple = self._single_device, self._multiple_devices
        if (single is None) == (multiple is None) or (isinstance(multiple, DeviceMap) and not multiple.mapping):
            raise DeviceError(
                "The component device can neither be empty nor contain both a single device and a device map"
            )
        if multiple is not None:
            if not isinstance(multiple, DeviceMap):
                raise _wrong_type("a device map", multiple, "DeviceMap.from_dict(...)")
            object.__setattr__(self, "_multiple_devices", read_only(multiple))
        elif not isinstance(single, Device):
            raise _wrong_type("a device", single, "Device.from_str(...)")
        elif single.type is DeviceType.DISK:
            raise DeviceError("The disk device can only be used as a part of device maps")

    def __hash__(self) -> int:
        # Equality of maps does not look at their order, so neither may the hash.
        entries = self._multiple_devices or ()
        return hash((self._single_device, frozenset(entries)))

    def __reduce__(self) -> tuple[type[ComponentDevice], tuple[Device | None, DeviceMap | None]]:
        # Copies and unpickled values are built anew, so that they are checked and own their map.
        return type(self), (self._single_device, self._multiple_devices)

    @classmethod
    def from_str(cls, device_str: str) -> ComponentDevice:
        """Read one device: `"cpu"`, `"cuda:1"`. Raises `DeviceError`, also for the disk."""
        return cls.from_single(Device.from_str(device_str))

    @classmethod
    def from_single(cls, device: Device) -> ComponentDevice:
        """Return the component device of one `Device`. Raises `DeviceError` for the disk."""
        return cls(_single_device=device)

    @classmethod
    def from_multiple(cls, device_map: DeviceMap) -> ComponentDevice:
        """Return the component device of a map, which is copied. Raises `DeviceError` for an empty one."""
        return cls(_multiple_devices=device_map)

    @property
    def has_multiple_devices(self) -> bool:
        """Whether this is a device map, also one whose entries name one device."""
        return self._multiple_devices is not None

    @property
    def first_device(self) -> ComponentDevice:
        """The single device, or the first of the map that is not the disk.

        Raises `DeviceError` for a map with nothing but disk entries.
        """
        if self._multiple_devices is None:
            return self
        for _, device in self._multiple_devices:
            if device.type is not DeviceType.DISK:
                return self.from_single(device)
        raise DeviceError("No usable device found in the device map; disk devices cannot be used as a single device")

    # What libraries take.

    def to_torch(self) -> torch.device:
        """Return the `torch.device`.

        Raises `DeviceError` for a map and for a type that this torch does not know (`npu` without `torch_npu`), and
        `MissingLibraryError`, an `ImportError`, without torch.
        """
        text = self.to_torch_str()
        try:
            import torch
        except ImportError as missing:
            raise MissingLibraryError(
                'PyTorch must be installed to use torch.device: run `pip install "devpolicy[torch]"`'
            ) from missing
        try:
            return torch.device(text)
        except RuntimeError:
            raise DeviceError(
                f"this torch knows no `{text}`: import the package that adds it, such as torch_npu"
            ) from None

    def to_torch_str(self) -> str:
        """Return torch's text for the device: `"cuda:1"`. Raises `DeviceError` for a map."""
        return str(self._only_device("PyTorch"))

    def to_spacy(self) -> int:
        """Return spaCy's GPU id, for `spacy.require_gpu(id)`; -1 means the CPU.

        `cuda` without an id is GPU 0. mps is 0: on a Mac spaCy ignores the number and takes mps. Raises `DeviceError`
        for a map, and for devices that spaCy cannot use (xpu, npu, hpu).
        """
        device = self._only_device("spaCy")
        if device.type not in _SPACY:
            raise DeviceError(f"spaCy runs on cuda, mps and cpu, not on `{device}`: give this component one of them")
        return device.id if device.type is DeviceType.GPU and device.id is not None else _SPACY[device.type]

    def to_hf(self) -> int | str | dict[str, int | str]:
        """Return what Hugging Face takes: text for one device (`device=`), a new dict for a map (`device_map=`).

        In a map, CUDA devices are their numbers (`cuda` without an id is 0), because text would make accelerate choose
        its main device by the order of a set; every other type is text, because a number means CUDA.
        """
        if self._multiple_devices is None:
            return str(self._single_device)
        return {
            name: device.id or 0 if device.type is DeviceType.GPU else str(device)
            for name, device in self._multiple_devices
        }

    def update_hf_kwargs(self, hf_kwargs: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any]:
        """Return a new dict of `hf_kwargs` with `device` or, for a map, `device_map`. The argument is not changed.

        Where one of the two is there already, `overwrite` replaces it and takes the other away, since `pipeline()`
        accepts only one; without `overwrite` everything stays as it is.
        """
        if not isinstance(hf_kwargs, Mapping):
            raise DeviceError(f"keyword arguments are a dict, got {type(hf_kwargs).__name__}")
        if not overwrite and ("device" in hf_kwargs or "device_map" in hf_kwargs):
            return dict(hf_kwargs)
        others = {key: value for key, value in hf_kwargs.items() if key not in ("device", "device_map")}
        return {**others, "device_map" if self.has_multiple_devices else "device": self.to_hf()}

    def _only_device(self, consumer: str) -> Device:
        if self._single_device is None:
            raise DeviceError(f"Only single devices can be converted to {consumer} format")
        return self._single_device

    # The dict form, which Haystack's pipelines save.

    def to_dict(self) -> dict[str, Any]:
        """Return `{"type": "single", "device": TEXT}` or `{"type": "multiple", "device_map": {NAME: TEXT}}`."""
        if self._multiple_devices is None:
            return {"type": "single", "device": str(self._single_device)}
        return {"type": "multiple", "device_map": self._multiple_devices.to_dict()}

    @classmethod
    def from_dict(cls, dict: Mapping[str, Any]) -> ComponentDevice:  # noqa: A002 - Haystack's argument name
        """Read what `to_dict` wrote. Raises `DeviceError`.

        A saved map may come back sorted by name, with a disk entry first: cpu entries are moved behind those of
        accelerators, disk entries to the end. The order is otherwise kept.
        """
        if not isinstance(dict, Mapping):
            raise DeviceError(f"a saved component device is a dict, got {type(dict).__name__}")
        kind = dict.get("type")
        key = {"single": "device", "multiple": "device_map"}.get(kind) if isinstance(kind, str) else None
        if key is None:
            unnamed = "without a name" if kind is None else type(kind).__name__
            told = f"'{clip(kind)}'" if isinstance(kind, str) else unnamed
            raise DeviceError(f"Unknown component device type {told} in serialized data")
        if key not in dict:
            raise DeviceError(f"a saved component device of type `{kind}` needs `{key}`")
        if kind == "single":
            return cls.from_str(dict[key])
        return cls.from_multiple(_safe_order(DeviceMap.from_dict(dict[key])))

    # Doors. Deciding, asking the machine and speaking to Haystack is the work of others, imported when asked for.

    @staticmethod
    def resolve_device(device: ComponentDevice | None = None) -> ComponentDevice:
        """Return `device`, or where it is `None` what the active policy says (`use_policy`, `DEVPOLICY`).

        Without an active policy the choice is Haystack's: cuda, xpu, mps, cpu. Raises `DeviceError` for other types.
        """
        if isinstance(device, ComponentDevice):
            return device
        if device is not None:
            raise _wrong_type_of_component_device(device)
        from devpolicy._core.device.default import default_device
        from devpolicy._core.verbs import active_device

        return active_device() or ComponentDevice.from_single(default_device())

    @classmethod
    def from_policy(
        cls,
        policy: Policy | str | PathLike[str],
        model: Any = None,
        host: Host | str | PathLike[str] | None = None,
        *,
        component: str | None = None,
    ) -> ComponentDevice:
        """Return what a policy decides for a component: `devpolicy.resolve`, where a component is initialised.

        With a `model` (a `ModelTree`, a module, a catalogue name, a checkpoint folder, a cached hub id) it is the whole
        plan's device, without one the device choice alone. `host` is by default that of the `use_policy` block around
        the call, else this machine. Raises `PolicyError`, `HostError`, `ModelError`, `Unsatisfiable`.
        """
        from devpolicy._core import verbs

        return verbs.resolve(policy, model, host, component=component)

    def to_haystack(self) -> Any:
        """Return Haystack's own `ComponentDevice`, which its components take. See `devpolicy.haystack`."""
        from devpolicy._core.targets.haystack import to_haystack

        return to_haystack(self)

    @staticmethod
    def from_haystack(device: Any) -> ComponentDevice:
        """Return the value of Haystack's own `ComponentDevice`. See `devpolicy.haystack`."""
        from devpolicy._core.targets.haystack import from_haystack

        return from_haystack(device)


def _safe_order(device_map: DeviceMap) -> DeviceMap:
    return DeviceMap(dict(sorted(device_map, key=lambda entry: KEPT_LAST.get(entry[1].type.value, 0))))


def _wrong_type(what: str, value: object, way: str) -> DeviceError:
    kind = type(value)
    told = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return DeviceError(f"{what} is expected, got {told}: write {way}")


def _wrong_type_of_component_device(value: object) -> DeviceError:
    kind = type(value)
    # The first two sentences are Haystack's, so that a search for them finds this too.
    message = f"Invalid component device type '{kind.__name__}'. Must either be None or ComponentDevice."
    if isinstance(value, str):
        return DeviceError(f"{message} For text, write ComponentDevice.from_str('{clip(value)}')")
    if isinstance(value, Device):
        return DeviceError(f"{message} For one device, write ComponentDevice.from_single(device)")
    if kind.__name__ == "ComponentDevice" and kind.__module__.startswith("haystack."):
        return DeviceError(f"{message} This one is Haystack's: write ComponentDevice.from_haystack(device)")
    return DeviceError(message)
