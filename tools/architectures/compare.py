"""What a forward gives: its tensors, whether two are the same, and the bytes of its cache on each device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import torch
from tools.architectures.tiny import TOKENS
from transformers import Cache

_CACHES = ("cache", "past_key_values", "past_buckets_states", "cache_params", "state", "mems")


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


def kept(model: Any, inputs: dict[str, Any], device: str | None = None, *, counted: bool = True) -> dict[str, int]:
    """Return the bytes that a model keeps for its next token, by device, once it has seen its inputs.

    Where its forward returns none of it although there is some, it is what `generate` keeps, for as many tokens. A
    forward that keeps nothing by default is not asked to: a coder of sound keeps its last samples for a stream alone.
    """
    parameter = inspect.signature(model.forward).parameters.get("use_cache")
    made = forward(model, inputs, device, **({} if parameter and parameter.default is False else {"use_cache": True}))
    found = cache_of(made)
    if found is None and counted and model.can_generate():
        found = _by_generate(model, inputs, device)
    own = [one for part in model.modules() for name, one in vars(part).items() if name.endswith(("_state", "_states"))]
    return cache_bytes([found, getattr(made, "padding_cache", None), own])


def _by_generate(model: Any, inputs: dict[str, Any], device: str | None) -> Any:
    """Return the cache that `generate` has at the end, `None` where it wants other inputs."""
    asked = {"do_sample": False, "num_beams": 1, "use_cache": True, "return_dict_in_generate": True}
    # Some put tokens of their own before those that they are given, which are no part of a length.
    for length in ({"max_length": TOKENS + 1, "min_length": TOKENS + 1}, {"max_new_tokens": 1}):
        with suppress(Exception), _made_caches() as made:
            given = {key: one.to(device or "cpu").clone() for key, one in inputs.items()}  # some write into them
            return cache_of(model.generate(**given, **asked, **length)) or made
    return None


@contextmanager
def _made_caches() -> Iterator[list[Any]]:
    """Yield a list of the caches that are made meanwhile."""
    made: list[Any] = []
    initialize = Cache.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        made.append(self)
        initialize(self, *given, **named)

    with mock.patch.object(Cache, "__init__", noted):
        yield made


def cache_of(output: Any) -> Any:
    """Return the cache that a forward made, of the model or of the one inside that writes; `None` where none did."""
    found = next((found for name in _CACHES if (found := getattr(output, name, None)) is not None), None)
    if found is not None:
        return found
    inside = [one for one in output.values() if isinstance(one, dict)] if isinstance(output, dict) else []
    return next((cache for one in inside if (cache := cache_of(one)) is not None), None)


def cache_bytes(cache: Any) -> dict[str, int]:
    """Return the bytes of the tensors that can be reached from a cache, by device.

    A single number, which counts tokens, is no part of it.
    """
    held: dict[str, int] = {}
    for tensor in _tensors(cache, set()):
        if tensor.numel() > 1:
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
