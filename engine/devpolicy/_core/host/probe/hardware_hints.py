"""Hints at accelerators of this machine, from what costs nothing to look at.

Owns the hints: device files, a driver's library. A hint is a reason to query a driver, never an answer;
without one no driver is queried, which saves most machines the seconds that importing torch takes.
"""

from __future__ import annotations

import os
from pathlib import Path

INTEL = "0x8086"

# WSL 2 has one device file for the GPUs of all vendors.
_WSL = "dev/dxg"
_JETSON = ("dev/nvhost-ctrl-gpu", "dev/nvgpu")
_LINUX = {
    "nvidia": ("dev/nvidiactl", "dev/nvidia[0-9]*", "proc/driver/nvidia/version", *_JETSON, _WSL),
    "amd": ("dev/kfd",),
    "intel": (_WSL,),
    "ascend": ("dev/davinci[0-9]*",),
    "habana": ("dev/hl[0-9]*", "dev/accel/accel[0-9]*"),
}
_WINDOWS = {"nvidia": ("nvcuda.dll",), "amd": ("amdhip64*.dll",), "intel": ("ze_loader.dll",)}


def vendors(system: str, arch: str, root: Path | None = None) -> frozenset[str]:
    """Return the vendors whose hardware may be there: nvidia, amd, intel, ascend, habana, apple.

    `root` is the root of the file system; on Windows the folder of the system's libraries.
    """
    if system == "linux":
        root = root or Path("/")
        found = {vendor for vendor, signs in _LINUX.items() if _any(root, signs)}
        return frozenset(found | ({"intel"} if _intel_renders(root) else set()))
    if system == "windows":
        libraries = root or Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return frozenset(vendor for vendor, signs in _WINDOWS.items() if _any(libraries, signs))
    # torch has no wheels for Intel Macs any more, and Metal's working set is that of Apple's own GPUs.
    return frozenset({"apple"} if system == "macos" and arch == "arm64" else ())


def _any(folder: Path, signs: tuple[str, ...]) -> bool:
    try:
        return any(next(folder.glob(sign), None) is not None for sign in signs)
    except OSError:
        return False


def _intel_renders(root: Path) -> bool:
    """Whether a device that renders is Intel's. Every GPU has such a file; its vendor is written in /sys."""
    try:
        entries = [entry / "device" / "vendor" for entry in root.glob("sys/class/drm/renderD*")]
        return any(entry.read_text().strip() == INTEL for entry in entries if entry.exists())
    except OSError:
        return False
