"""What a component class takes: its row, that of a class that it inherits from, or what its signature says.

Owns the reading of classes without a row, and of components that were saved by such a class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from devpolicy._core.targets.haystack_components.table import KWARGS, ONE_DEVICE, Takes, TakesNone, pipeline, row_of

_UNION = re.compile(r"(?:\w+\.)*(?:Optional|Union)\[(.*)\]")


def row_of_class(component: type, params: Mapping[str, Any]) -> Takes | TakesNone | None:
    """Return the row of a class, or of the nearest class that it inherits from."""
    rows = (row_of(f"{one.__module__}.{one.__qualname__}", params) for one in component.__mro__)
    return next((row for row in rows if row is not None), None)


def takes_of(component: type, params: Mapping[str, Any]) -> Takes | TakesNone | None:
    """Return what a component class takes: its row, else what its signature says; `None` where that is no device."""
    row = row_of_class(component, params)
    if isinstance(row, Takes) and not _accepts(component, row):
        row = None
    return row if row is not None else _of_signature(component)


def takes_of_saved(path: str, params: Mapping[str, Any]) -> Takes | TakesNone | None:
    """Return what a saved component takes, by its class path and init parameters, without importing the class."""
    row = row_of(path, params)
    if row is not None:
        return row
    device = params.get("device")
    if isinstance(device, Mapping) and device.get("type") not in ("single", "multiple"):
        return None
    if device is None or isinstance(device, Mapping):
        # Components of Hugging Face move their device into the keyword arguments of its pipeline.
        kwargs = [value for name in KWARGS[:2] if isinstance(value := params.get(name), Mapping)]
        moved = any("device" in one or "device_map" in one for one in kwargs)
        return _generic(params) if "device" in params or moved else None
    return Takes("text", ONE_DEVICE, known=False) if isinstance(device, str) else None


def _accepts(component: type, row: Takes) -> bool:
    """Whether a class that inherits a row has its init parameters too, or hands on whatever it is given."""
    parameters = _parameters(component)
    written = {"fastembed": None, "llama-cpp": None, "provider": "onnx_execution_provider"}.get(row.form, "device")
    handed_on = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return handed_on or {name for name in (written, row.kwargs) if name} <= set(parameters)


def _parameters(component: type) -> Mapping[str, inspect.Parameter]:
    # Of `__init__`, since the signature of the class is that of Haystack's metaclass.
    return inspect.signature(component.__init__).parameters  # type: ignore[misc]


def _of_signature(component: type) -> Takes | TakesNone | None:
    parameters = _parameters(component)
    if "device" not in parameters:
        return None
    annotation = parameters["device"].annotation
    kinds = _members(_evaluated(component, annotation))
    devices = [kind for kind in kinds if _last(kind) == "ComponentDevice"]
    if any("devpolicy" in str(getattr(kind, "__module__", kind)) for kind in devices):
        return Takes("ours", "hf", known=False)
    if annotation is inspect.Parameter.empty or devices:
        return _generic(parameters)
    if "str" in map(_last, kinds):
        return Takes("text", ONE_DEVICE, known=False)
    told = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return TakesNone("annotate it with Haystack's `ComponentDevice`, or with `str`", annotated=told)


def _evaluated(component: type, annotation: Any) -> Any:
    """Return an annotation that is text as what it means, or as the text where only a type checker knows that."""

    def alone() -> None: ...

    # Without those of the other parameters, which may not be known either.
    alone.__annotations__ = {"device": annotation}
    known = getattr(inspect.unwrap(component.__init__), "__globals__", {})  # type: ignore[misc]
    try:
        return get_type_hints(alone, known).get("device", annotation)
    except Exception:  # noqa: BLE001 - a name that is only imported for a type checker
        return annotation


def _members(annotation: Any) -> list[Any]:
    """Return the types of a union, or the names in a text that could not be evaluated."""
    if isinstance(annotation, str):
        inner = _UNION.fullmatch(annotation.strip())
        return [part.strip() for part in re.split("[|,]" if inner else "[|]", inner[1] if inner else annotation)]
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _last(kind: Any) -> str:
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _generic(parameters: Mapping[str, Any]) -> Takes:
    """Return what a class without a row takes: a map only where it hands keyword arguments to `pipeline`."""
    for name in KWARGS[:2]:
        if name in parameters:
            return replace(pipeline(name), checkpoint=False, known=False)
    return Takes("device", ONE_DEVICE, known=False)
