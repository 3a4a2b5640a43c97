"""The questions to torch about accelerators.

Runs as a script in a child process (its text is given to `python -c`, so it imports nothing of
devpolicy), because most of these questions create a context on the device: hundreds of megabytes,
and forks that no longer work. Prints one line of JSON after `MARK`.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

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
            result[type_] = {"fault": str(error) or type(error).__name__}
    return result


def devices(torch: Any, type_: str) -> list[dict[str, Any]]:
    """Return the facts of each device of a type. Raises what the driver says where none can be used."""
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
        return {"memory": 0, "fault": str(error) or type(error).__name__}
    return found


def main() -> None:
    """Answer for the types that are named as arguments."""
    import torch

    print(MARK + json.dumps(answers(torch, sys.argv[1:])), flush=True)


if __name__ == "__main__":
    main()
