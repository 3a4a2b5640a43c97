"""The probes of accelerators that run in a child process: torch's and NVML's.

Runs as a script (its text is given to `python -c`, so it imports nothing of devpolicy), because most of torch's
questions create a context on the device, hundreds of megabytes and forks that no longer work, and because a driver's
library may hang, exit or crash. Owns the protocol too: a child prints one line of JSON after `MARK`, and ends.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

MARK = "devpolicy-probe:"

# torch knows these types by packages of their own.
PLUGINS = {"npu": "torch_npu", "hpu": "habana_frameworks.torch.core"}


def answers(torch: Any, types: list[str]) -> dict[str, Any]:
    """Return for each type `{"devices": [facts, …]}` or `{"fault": why}`; facts are keywords of an accelerator."""
    result: dict[str, Any] = {}
    for type_ in types:
        try:
            result[type_] = {"devices": devices(torch, type_)}
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            result[type_] = {"fault": _why(error)}
    return result


def devices(torch: Any, type_: str) -> list[dict[str, Any]]:
    """Return the facts of each device of a type. Raises the driver's error where none can be used."""
    if type_ == "mps":
        # One device, and its free memory is a question to the system, not to Metal.
        available = torch.backends.mps.is_available()
        return [{"memory": torch.mps.recommended_max_memory(), "unified": True}] if available else []
    if type_ in PLUGINS and not hasattr(torch, type_):
        importlib.import_module(PLUGINS[type_])
    module = getattr(torch, type_)
    if not module.is_available() and hasattr(module, "init"):
        module.init()  # raises the reason, which `is_available` keeps to itself
    return [facts(module, type_, index) for index in range(module.device_count())]


def facts(module: Any, type_: str, index: int) -> dict[str, Any]:
    """Return the facts of one device; a fault where it does not answer."""
    try:
        properties = module.get_device_properties(index)
        found: dict[str, Any] = {
            "name": module.get_device_name(index),
            "memory": int(properties.total_memory),
            "unified": bool(getattr(properties, "is_integrated", False)),
        }
        if type_ == "cuda":
            found["capability"] = list(module.get_device_capability(index))
            if hasattr(properties, "uuid"):
                found["uuid"] = f"GPU-{properties.uuid}"
        if hasattr(module, "mem_get_info"):
            try:
                found["free"], found["memory"] = (int(amount) for amount in module.mem_get_info(index))
            except RuntimeError as error:
                # Some Intel drivers do not tell what is free; any other device that cannot say so is broken.
                if type_ != "xpu":
                    raise RuntimeError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        return {"memory": 0, "fault": _why(error)}
    return found


def inventory(nvml: Any) -> dict[str, Any]:
    """Return NVML's facts of every GPU of the machine, in its order. Raises what NVML raises.

    `{"driver": version, "gpus": [facts, …]}`; the facts of a GPU in MIG mode have its `instances`. A GPU without memory
    of its own has `shared`.
    """
    nvml.nvmlInit()
    try:
        gpus: list[dict[str, Any]] = []
        for index in range(int(nvml.nvmlDeviceGetCount())):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except Exception as error:  # noqa: BLE001 - NVML's errors are made at run time
                gpus.append({"fault": _why(error)})
                continue
            gpus.append({**_gpu(nvml, handle), "instances": _instances(nvml, handle)})
        return {"driver": _text(nvml.nvmlSystemGetDriverVersion), "gpus": gpus}
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": _text(nvml.nvmlDeviceGetName, handle),
        "uuid": _text(nvml.nvmlDeviceGetUUID, handle),
    }
    with suppress(Exception):
        found["capability"] = [int(number) for number in nvml.nvmlDeviceGetCudaComputeCapability(handle)]
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        found |= {"memory": int(memory.total), "free": int(memory.free)}
    except Exception as error:  # noqa: BLE001 - NVML's errors are made at run time
        # A GPU without memory of its own (GB10, Jetson) is the one that does not support the question.
        is_shared = getattr(error, "value", None) == nvml.NVML_ERROR_NOT_SUPPORTED
        found |= {"shared": True} if is_shared else {"fault": _why(error)}
    return found


def _instances(nvml: Any, handle: Any) -> list[dict[str, Any]] | None:
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
        if not mode:
            return None
        places = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except Exception:  # noqa: BLE001 - GPUs without MIG do not support the question
        return None
    result = []
    for place in range(places):
        # Places without an instance raise "not found".
        with suppress(Exception):
            result.append(_gpu(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)))
    return result


def _text(ask: Any, *arguments: Any) -> str | None:
    with suppress(Exception):
        told = ask(*arguments)
        return told.decode(errors="replace") if isinstance(told, bytes) else str(told)
    return None


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def ask_torch(*types: str) -> dict[str, Any]:
    """Ask torch for types of accelerators."""
    return answers(importlib.import_module("torch"), list(types))


def ask_nvml(folder: str) -> dict[str, Any]:
    """Ask NVML through the `pynvml` of a folder, which comes last: it may hold anything."""
    sys.path.append(folder)
    try:
        return inventory(importlib.import_module("pynvml"))
    except BaseException as error:  # noqa: BLE001 - a library may raise anything, and exit
        return {"fault": _why(error)}


def end_after(seconds: float) -> None:
    """End this process after some time, whatever hangs: nobody else does where its parent is gone."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=os.open(os.devnull, os.O_WRONLY))


def tell(answer: dict[str, Any]) -> NoReturn:
    """Print the answer, and end the process without the exit handlers of libraries, which may hang."""
    print("\n" + MARK + json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    limit, question, *parameters = sys.argv[1:]
    end_after(float(limit))
    tell(ask_torch(*parameters) if question == "torch" else ask_nvml(*parameters))
