"""Suggestions for known error texts of drivers and libraries.

Owns the table of known texts. A new one is a line here, and no other module holds any.
"""

from __future__ import annotations

import re

_TABLE: tuple[tuple[str, str], ...] = (
    (
        r"driver.{0,40}(?:too old|insufficient)",
        "update the driver, or install torch built for a CUDA that this driver knows: `nvidia-smi` shows it",
    ),
    (
        r"driver/library version mismatch",
        "the driver was updated while it was loaded: restart the machine, or unload and load its kernel modules",
    ),
    (
        r"NVML shared library not found|no nvidia driver|libcuda\.so|libnvidia-ml",
        "install NVIDIA's driver; in a container, start it with the GPUs (`--gpus all`, NVIDIA Container Toolkit)",
    ),
    (
        r"driver not loaded|couldn't communicate with the nvidia driver",
        "load the driver's kernel module (`sudo modprobe nvidia`); after a new kernel, install the driver again",
    ),
    (
        r"fallen off the bus|gpu is lost|device handle for gpu",
        "restart the machine, and look for `Xid` in `dmesg`: power, cooling and the slot are the usual causes",
    ),
    (
        r"\bECC\b",
        "`nvidia-smi -q -d ECC` shows the errors; reset the GPU, and leave it out with CUDA_VISIBLE_DEVICES until then",
    ),
    (r"system not yet initialized|error 802", "start NVIDIA's Fabric Manager, which GPUs behind an NVSwitch need"),
    (
        r"cuda unknown error|unknown error",
        "reload `nvidia_uvm` (`sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm`), as after a suspend, or restart",
    ),
    (r"not compatible with the current pytorch|no kernel image", "install a torch that is built for this GPU"),
    (
        r"no cuda-capable device|no cuda gpus are available",
        "see that CUDA_VISIBLE_DEVICES names GPUs that `nvidia-smi -L` lists, and that the container was given them",
    ),
    (r"permission|not permitted", "add the user to the group that owns the device's file: `ls -l /dev/dri /dev/kfd`"),
    (r"out of memory", "another process holds the memory: `nvidia-smi` shows which"),
    (r"driver initialization failed|initialization error", "restart the machine; in a container, start it again"),
    (r"cupy is not installed", "`pip install 'spacy[cuda12x]'`, the number that of the CUDA version"),
    (
        r"execution providers are",
        "`pip install onnxruntime-gpu` in place of `onnxruntime`, which runs on the CPU alone",
    ),
    (r"no answer within", "the driver hangs: look for `Xid` in `dmesg`, and restart the machine"),
    (r"crashed with sig", "run `python -X faulthandler -c 'import {module}'` to see where, and install it again"),
    (
        r"compiled using numpy|numpy\.dtype size changed|_ARRAY_API",
        "it was built for another NumPy: update it, or install the NumPy that it was built for",
    ),
    (
        r"undefined symbol|cannot open shared object|dll load failed|symbol not found",
        "its binary libraries are of other versions than it was built with: install it again with what it needs",
    ),
    (r"no module named '?([\w.]+)", "`pip install` what it needs: `pip check` lists what is missing"),
    (r"is built without|not compiled with|not linked with", "install a torch that is built for this accelerator"),
)

_KNOWN = [(re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in _TABLE]


def suggestion(text: str, module: str = "torch") -> str | None:
    """Return how to fix what an error text of a driver or a library reports; `None` for an unknown text.

    `module` is the import name of the library that reported it.
    """
    found = next((advice for pattern, advice in _KNOWN if pattern.search(text)), None)
    return found.format(module=module) if found and "{module}" in found else found
