"""One probe for each library, each run in a child process of its own.

Each probe uses the library's own way to look at the machine, so that its answer is what the library would act on. No
probe affects the examined process: whatever a library raises, or does to the driver, ends with the child. The protocol
is that of `devpolicy._core.host.probe.torch_probe`.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from devpolicy._core.host.probe import nvml as nvidia
from devpolicy._core.host.probe.system import Amount
from devpolicy._core.host.probe.torch_probe import PLUGINS, answers, end_after, inventory, tell


def nvml() -> dict[str, Any]:
    """Ask for every GPU of the machine, whatever this process may see."""
    found = nvidia.read(inventory(import_module("pynvml")), Amount(0, 0))
    devices = [{"name": gpu.name, "memory": gpu.memory, "fault": gpu.fault} for gpu in found.gpus]
    return {"devices": {"cuda": devices}}


def psutil() -> dict[str, Any]:
    """Ask psutil for the RAM: it reports the machine's and not a container's."""
    return {"ram": import_module("psutil").virtual_memory().total}


def torch() -> dict[str, Any]:
    """Ask for the devices of every type that this build may have, and for the accelerator that it calls current."""
    library = import_module("torch")
    types = ["cuda", "xpu", "mps", *(kind for kind in PLUGINS if hasattr(library, kind))]
    found = answers(library, types)
    module = getattr(library, "accelerator", None)
    chosen = module.current_accelerator() if module is not None and module.is_available() else None
    return {
        "devices": {kind: answer.get("devices", []) for kind, answer in found.items()},
        "faults": {kind: answer["fault"] for kind, answer in found.items() if "fault" in answer},
        "built_for": [kit for kit in ("cuda", "hip", "xpu") if getattr(library.version, kit, None)],
        "choice": "cpu" if chosen is None else str(chosen),
    }


def accelerate() -> dict[str, Any]:
    """Ask for the budgets behind `device_map="auto"`, and for the device of a script."""
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):  # or it would wait for other processes
        os.environ.pop(name, None)
    device = import_module("accelerate").PartialState().device
    budgets = import_module("accelerate.utils").get_max_memory()
    devices = {device.type: [{"id": key, "memory": free} for key, free in budgets.items() if isinstance(key, int)]}
    if "mps" in budgets:
        devices["mps"] = [{"memory": budgets["mps"]}]
    devices.pop("cpu", None)
    return {"devices": devices, "ram": budgets.get("cpu"), "amounts": "free", "choice": str(device)}


def transformers() -> dict[str, Any]:
    """Ask for the device that `pipeline()` takes when it is given none."""
    pipeline = import_module("transformers").Pipeline
    model = SimpleNamespace(device=import_module("torch").device("cpu"), hf_device_map=None)
    asked: Any = object.__new__(type("Asked", (pipeline,), dict.fromkeys(pipeline.__abstractmethods__)))
    try:
        pipeline.__init__(asked, model, task="")
    except Exception:
        # The device is chosen first; what is needed of a model after that is more than a question.
        if not hasattr(asked, "device"):
            raise
    return {"choice": str(asked.device)}


def sentence_transformers() -> dict[str, Any]:
    """Ask for the device of a `SentenceTransformer` that is given none."""
    util = import_module("sentence_transformers.util")
    ask = getattr(util, "get_device_name", None) or util.get_device
    return {"choice": str(ask())}


def onnxruntime() -> dict[str, Any]:
    """Ask for the provider of a session that is given none. What hardware is there it finds out when it is made."""
    names = import_module("onnxruntime").get_available_providers()
    kinds = {"CUDA": "cuda", "Tensorrt": "cuda", "MIGraphX": "cuda", "ROCM": "cuda", "CoreML": "mps", "OpenVINO": "xpu"}
    found = (kinds.get(name.removesuffix("ExecutionProvider")) for name in names)
    choice = next((kind for kind in found if kind), "cpu")
    return {"choice": choice, "why": f"its execution providers are {', '.join(names)}" if choice == "cpu" else None}


def haystack() -> dict[str, Any]:
    """Ask for the device of a component that is given none."""
    return {"choice": import_module("haystack.utils").ComponentDevice.resolve_device(None).to_torch_str()}


def spacy() -> dict[str, Any]:
    """Ask for a GPU as `require_gpu` does, which raises a reason where `prefer_gpu` returns false."""
    thinc = import_module("thinc.api")
    try:
        import_module("spacy").require_gpu()
    except ValueError as refused:
        return {"choice": "cpu", "why": str(refused)}
    return {"choice": "cuda" if isinstance(thinc.get_current_ops(), thinc.CupyOps) else "mps"}


LIBRARY_PROBES = {
    "nvml": nvml,
    "psutil": psutil,
    "torch": torch,
    "accelerate": accelerate,
    "transformers": transformers,
    "sentence-transformers": sentence_transformers,
    "onnxruntime": onnxruntime,
    "haystack": haystack,
    "spacy": spacy,
}


def simulating(text: str) -> Any:
    """Return the simulation of the host that a TOML describes, or nothing to enter where it is empty."""
    if not text:
        return nullcontext()
    from devpolicy._core.host import Host
    from devpolicy._core.simulation import simulate_host

    return simulate_host(Host.parse(text), scope="process")


def main() -> None:
    """Ask the library that the second argument names, about the host in the third or about this machine."""
    limit, library, host = sys.argv[1:]
    end_after(float(limit))
    with warnings.catch_warnings(record=True) as caught, simulating(host):
        warnings.simplefilter("always")
        try:
            answer = LIBRARY_PROBES[library]()
        except BaseException as error:  # noqa: BLE001 - libraries exit, and drivers may raise anything
            answer = {"fault": str(error) or type(error).__name__}
    remarks = [str(one.message) for one in caught if issubclass(one.category, UserWarning | RuntimeWarning)]
    tell({**answer, "remarks": list(dict.fromkeys(remarks))})
