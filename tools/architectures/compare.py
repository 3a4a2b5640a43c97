"""What a forward gives: its tensors, whether two are the same, and the bytes of its cache on each device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

_CACHES = ("cache", "past_key_values", "cache_params", "state", "mems")


def forward(model: Any, inputs: dict[str, Any], device: str | None = None, **more: Any) -> Any:
    """Run a model; `more` is given where its forward takes it."""
    torch.manual_seed(3)
    if device is not None:
        inputs = {key: one.to(device) if isinstance(one, torch.Tensor) else one for key, one in inputs.items()}
    names = inspect.signature(model.forward).parameters
    with torch.no_grad():
        return model(**inputs, **{key: one for key, one in more.items() if key in names})


def outputs(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an output on the CPU, without those of a cache."""
    if isinstance(value, torch.Tensor):
        yield value.detach().cpu()
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in _CACHES:
                yield from outputs(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from outputs(one)


def difference(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float = 0.0) -> str:
    """Return how two outputs differ, empty where they are the same: bit for bit, or within a tolerance."""
    if [one.shape for one in ours] != [one.shape for one in theirs]:
        return "other shapes"
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        same = torch.equal(one, other) or torch.allclose(one.float(), other.float(), 0, 0, equal_nan=True)
        if not same:
            worst = max(worst, float((one.double() - other.double()).abs().nan_to_num(9e9).max()))
    return f"differs by {worst:.2g}" if worst > tolerance else ""


def cache_of(output: Any) -> Any:
    """Return the cache that a forward made, of the model or of the one inside that writes; `None` where none did."""
    found = next((found for name in _CACHES if (found := getattr(output, name, None)) is not None), None)
    if found is not None:
        return found
    inside = [one for one in output.values() if isinstance(one, dict)] if isinstance(output, dict) else []
    return next((cache for one in inside if (cache := cache_of(one)) is not None), None)


def cache_bytes(cache: Any) -> dict[str, int]:
    """Return the bytes of the floating tensors that can be reached from a cache, by device."""
    held: dict[str, int] = {}
    for tensor in _tensors(cache, set()):
        if tensor.is_floating_point():
            device = str(tensor.device)
            held[device] = held.get(device, 0) + tensor.numel() * tensor.element_size()
    return held


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, dict):
        inside: Any = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module | type):
        inside = () if "Config" in type(value).__name__ else vars(value).values()
    else:
        inside = ()
    for one in inside:
        yield from _tensors(one, seen)
