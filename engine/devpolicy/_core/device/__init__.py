"""Device values: where a component runs, and which of its modules run or are kept elsewhere.

Owns `DeviceType`, `Device`, `DeviceMap` and `ComponentDevice`, which have the names, dict forms and
conversions of `haystack.utils.device`; `docs/differences-from-haystack.md` lists every deliberate
difference. They know no policy, no host and no plan, and importing them imports no library.

    single.py     one device, and how it is written
    map.py        module names to devices
    component.py  either of them, and what each library takes for it
    default.py    the one question to this machine: which device runs where nothing says
"""

from __future__ import annotations

from devpolicy._core.device.component import ComponentDevice
from devpolicy._core.device.map import DeviceMap
from devpolicy._core.device.single import LARGEST_ID, Device, DeviceType

__all__ = ["LARGEST_ID", "ComponentDevice", "Device", "DeviceMap", "DeviceType"]
