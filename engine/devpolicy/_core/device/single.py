"""One device: its type, its id, and how both are written.

Owns the text form (`cuda:1`) and the rules of ids. It asks no machine whether a device exists.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from numbers import Integral

from devpolicy._core.errors import DeviceError

LARGEST_ID = 127
"""torch keeps an index in 8 signed bits and wraps in silence: `cuda:300` is index 44, `cuda:255` the current device."""

_MEANT = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "rocm": "cuda",
    "hip": "cuda",
    "metal": "mps",
    "apple": "mps",
    "intel": "xpu",
}


def clip(text: str) -> str:
    """Return what a user wrote, cut to a length that fits into a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."


class DeviceType(Enum):
    """A kind of device, by torch's name for it. Nothing runs on `DISK`: it keeps weights."""

    CPU = "cpu"
    GPU = "cuda"
    DISK = "disk"
    MPS = "mps"
    XPU = "xpu"
    NPU = "npu"
    HPU = "hpu"

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def from_str(string: str) -> DeviceType:
        """Return the type of that exact name (`"cuda"`, not `"CUDA"` or `"gpu"`).

        Raises `DeviceError` with the likely name.
        """
        if not isinstance(string, str):
            raise DeviceError(f"a device type is text such as `cuda`, not {type(string).__name__}")
        if string in _TYPES:
            return _TYPES[string]
        message = f"Unknown device type string '{clip(string)}'"
        word = string[:20].strip().lower()
        likely = _MEANT.get(word) or next(iter(difflib.get_close_matches(word, _TYPES, 1)), None)
        raise DeviceError(
            f"{message}: did you mean `{likely}`?" if likely else f"{message}: known are {', '.join(_TYPES)}"
        )


_TYPES = {member.value: member for member in DeviceType}


@dataclass(frozen=True, slots=True)
class Device:
    """One device: `cuda:1`. Immutable and hashable.

    `id` is the ordinal that torch uses in this process, 0 to 127; `None` leaves the choice to the library (torch's
    current device). There is one CPU: an id of it is dropped, as torch drops it, because libraries compare the
    text and `cpu:0` is not `cpu`. Raises `DeviceError` for every other type or value.
    """

    type: DeviceType
    id: int | None = None

    def __post_init__(self) -> None:
        kind, number = self.type, self.id
        if not isinstance(kind, DeviceType):
            told = f"`{clip(kind)}`" if isinstance(kind, str) else kind.__class__.__name__
            raise DeviceError(f"{told} is no device type: write a member of DeviceType, or Device.from_str for text")
        if number is None:
            return
        if number.__class__ is not int:
            # `bool` is an `int` in Python, and `True` is nobody's GPU 1. NumPy's integers are others, and ids.
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise DeviceError(f"Device id must be an integer, got {number.__class__.__name__}")
            number = int(number)
            object.__setattr__(self, "id", number)
        if number < 0:
            raise DeviceError(f"Device id must be >= 0, got {_digits(number)}")
        if number > LARGEST_ID:
            raise DeviceError(f"Device id must be <= {LARGEST_ID}, the largest that torch keeps, got {_digits(number)}")
        if kind is DeviceType.DISK:
            raise DeviceError(f"the disk has no id, got {number}")
        if kind is DeviceType.CPU:
            object.__setattr__(self, "id", None)

    def __str__(self) -> str:
        return self.type.value if self.id is None else f"{self.type.value}:{self.id}"

    @staticmethod
    def cpu() -> Device:
        """Return the CPU."""
        return Device(DeviceType.CPU)

    @staticmethod
    def gpu(id: int = 0) -> Device:  # noqa: A002 - Haystack's argument name
        """Return a CUDA device (also a ROCm one, which torch calls `cuda`)."""
        return Device(DeviceType.GPU, id)

    @staticmethod
    def disk() -> Device:
        """Return the disk, which keeps weights and runs nothing."""
        return Device(DeviceType.DISK)

    @staticmethod
    def mps() -> Device:
        """Return Apple's GPU."""
        return Device(DeviceType.MPS)

    @staticmethod
    def xpu() -> Device:
        """Return torch's current Intel GPU."""
        return Device(DeviceType.XPU)

    @staticmethod
    def npu() -> Device:
        """Return torch's current Ascend NPU (needs `torch_npu`)."""
        return Device(DeviceType.NPU)

    @staticmethod
    def hpu() -> Device:
        """Return torch's current Gaudi device (needs `habana_frameworks`)."""
        return Device(DeviceType.HPU)

    @staticmethod
    def from_str(string: str) -> Device:
        """Read `TYPE` or `TYPE:ID` (`"cpu"`, `"cuda:1"`), as `str(device)` writes it.

        Raises `DeviceError` for everything that torch would not read either: spaces, signs, leading zeros, digits
        of other scripts.
        """
        if not isinstance(string, str):
            raise DeviceError(f"a device is text such as `cuda:1`, not {type(string).__name__}")
        name, colon, number = string.partition(":")
        return Device(DeviceType.from_str(name), _read_id(number, string) if colon else None)


def _read_id(text: str, whole: str) -> int:
    if ":" in text:
        raise DeviceError(f"`{clip(whole)}` has two ids: a device has one, such as `cuda:0`")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise DeviceError(f"Device id must be an integer, got {clip(text) or 'nothing'}")
    if text != "0" and digits.startswith("0"):
        raise DeviceError(f"`{clip(whole)}`: an id is written without sign and leading zeros, such as `cuda:1`")
    # Python refuses to convert thousands of digits; any number of this length is refused for its size.
    return int(text[:20])


def _digits(number: int) -> str:
    return str(number) if abs(number) < 10**20 else "a number of more than 20 digits"
