"""The smallest values of a policy: a device term, an amount of memory.

Owns what they mean. How they are read is in `terms` and `kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.host import Accelerator
    from devpolicy._core.language.devices import DeviceClass


@dataclass(frozen=True, slots=True)
class DeviceSelector:
    """Devices that a policy names: a type (`cuda`), one device (`cuda:1`), a class of `[devices]`, `cpu` or `disk`.

    `count` devices are needed at least and used at most, and with `same` (`"name"`, `"memory"`, `"capability"`)
    they must be alike; `count` 0 means any number.
    """

    type: str
    id: int | None = None
    count: int = 0
    same: tuple[str, ...] = ()
    device_class: DeviceClass | None = None

    def names(self, one: Accelerator) -> bool:
        """Whether an accelerator is one of those that the term names, whatever their number."""
        return (
            one.type == self.type
            and self.id in (None, one.id)
            and (self.device_class is None or not self.device_class.unlike(one))
        )

    def __str__(self) -> str:
        if self.device_class is not None:
            return self.device_class.name
        return self.type if self.id is None else f"{self.type}:{self.id}"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of memory: bytes plus a fraction of a basis."""

    size: int = 0
    percent: float = 0.0

    def of(self, basis: int) -> int:
        """Bytes of this amount where 100 % is `basis`, rounded down; a percentage has six decimals."""
        # In integers: a float would be off by bytes on a large device, and 29 % is not a float's 29 %.
        return self.size + basis * round(self.percent * 10**6) // 10**8
