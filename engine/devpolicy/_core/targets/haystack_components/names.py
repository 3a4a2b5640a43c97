"""The names of components that are inside of others: `agent.chat_generator`.

Haystack hands its callbacks the name of the outer component alone, and none to what is made in code. Owns how a name is
read from the calls of Haystack that are in progress, and the components of a saved pipeline with their names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_OF_ONE = "component_from_dict"
_MAKING = (_OF_ONE, "from_dict", "default_from_dict", "_from_dict_impl")
"""Functions of Haystack and of its components that make a component or a pipeline from their argument `data`."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One component of a saved pipeline."""

    name: str
    path: str
    """The path of its class."""
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loading:
    """A component that Haystack is making from a saved pipeline, as its calls in progress tell it."""

    name: str | None = None
    """`None` where it is not made from a saved pipeline."""
    pipeline: Mapping[str, Any] | None = None
    """The whole pipeline as it was saved."""
    callback: Any = None
    """Haystack's `component_pre_init`, `None` without one."""


def saved_components(data: Mapping[str, Any]) -> Iterator[Saved]:
    """Yield the components of a pipeline's dict form, each before those inside of it."""
    components = data.get("components")
    for name, entry in components.items() if isinstance(components, Mapping) else ():
        for inner, part in _with_inner(str(name), entry) if _is_component(entry) else ():
            yield Saved(inner, part["type"], _texts(part["init_parameters"]))


def _texts(params: Any) -> Mapping[str, Any]:
    """Return init parameters by their names, none where a file has something else in their place."""
    return {key: value for key, value in params.items() if isinstance(key, str)} if isinstance(params, Mapping) else {}


def _with_inner(name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a saved component and all that are saved inside of it, with their names."""
    yield name, entry
    for step, inner in _inside(entry["init_parameters"]):
        yield from _with_inner(f"{name}.{step}", inner)


def _inside(value: Any, at: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what is saved next inside a value, by its path: keys, places in lists, names in a pipeline."""
    for key, inner in _entries(value):
        path = f"{at}.{key}" if at else key
        if _is_component(inner):
            yield path, inner
        elif isinstance(inner, Mapping) and isinstance(inner.get("components"), Mapping):
            # A pipeline in a component: its names say enough.
            yield from _inside(inner["components"], at)
        else:
            yield from _inside(_content(inner), path)


def _content(value: Any) -> Any:
    """Return what a saved tool holds: Haystack writes its class beside that."""
    if isinstance(value, Mapping) and isinstance(value.get("type"), str) and isinstance(value.get("data"), Mapping):
        return value["data"]
    return value


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(number), inner) for number, inner in enumerate(value))


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and "init_parameters" in value


def loading() -> Loading:
    """Return what Haystack is making, from its calls that are in progress below this one.

    A component inside of others is named by the path to it. Where that cannot be read, it is named by its class, so
    that it is not taken for the one around it.
    """
    steps: list[str] = []
    pipeline: Mapping[str, Any] | None = None
    part: Mapping[str, Any] | None = None
    outer: tuple[str, Mapping[str, Any]] | None = None
    callback = None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_name
        # Only of these: a frame that is asked for its variables keeps them alive.
        known = frame.f_locals if name in _MAKING else {}
        data = known.get("data")
        if isinstance(data, Mapping) and _is_component(data):
            # Also a part is made by the function that names components; its name there is a key, not a path.
            part = data if part is None else part
            if name == _OF_ONE:
                outer = str(known.get("name")), data
                callback = getattr(known.get("callbacks"), "component_pre_init", None) or callback
        elif isinstance(data, Mapping) and isinstance(data.get("components"), Mapping):
            if outer is not None:
                steps.append(_named(*outer, part))
            # A pipeline inside of a component is a part of it.
            pipeline, part, outer = data, data, None
        frame = frame.f_back
    if outer is not None:
        steps.append(_named(*outer, part))
    return Loading(".".join(reversed(steps)) or None, pipeline, callback)


def _named(name: str, whole: Mapping[str, Any], part: Mapping[str, Any] | None) -> str:
    """Return the name of a saved component or pipeline inside another, found by identity."""
    if part is None:
        return name
    if not _is_component(part):
        # Of a pipeline: what its components have before their own names.
        first, entry = next(iter(part["components"].items()), ("", None))
        found = next((path for path, inner in _with_inner(name, whole) if inner is entry), name)
        return found.removesuffix(f".{first}")
    of_class = f"{name}.{part['type'].rpartition('.')[2]}"
    return next((path for path, inner in _with_inner(name, whole) if inner is part), of_class)
