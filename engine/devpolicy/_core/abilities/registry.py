"""Which consumers there are.

Owns finding one by its name: those that come with the package, and those of third parties, which register themselves or
are listed in the entry point group `devpolicy.targets`. An entry point is loaded when a name is asked for that is not
known, or when all are listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from devpolicy._core.abilities.table import BEHIND_COMPONENTS, SHIPPED
from devpolicy._core.abilities.values import Abilities, Target
from devpolicy._core.errors import DevPolicyError
from devpolicy._core.text import described
from devpolicy._core.toml.tables import did_you_mean

DEFAULT_TARGET = "hf"
_DEFAULTS = {"gguf": "llama.cpp", "onnx": "onnx", "diffusers": "diffusers"}
ENTRY_POINTS = "devpolicy.targets"

NAMED = tuple(target.name for target in SHIPPED)
"""The names of the consumers that come with the package."""

_NAMED: dict[str, Target] = {target.name: target for target in SHIPPED}
_BEHIND: dict[str, Target] = {target.name: target for target in BEHIND_COMPONENTS}
_loaded: list[str] = []
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


class TargetError(DevPolicyError, ValueError):
    """A name that is no known consumer, or one that cannot be registered."""


def register(target: Target) -> Target:
    """Add a consumer, so that policies and commands can name it. Raises `TargetError` where its name is taken."""
    if not isinstance(target, Target):
        raise TargetError(f"a target is registered as a `Target`, not as a value of type {type(target).__name__}")
    wrong = _wrong_field(target)
    if wrong:
        raise TargetError(f"a target's `{wrong}` is not what it must be: see `Target`")
    if _NAMED.get(target.name, target) != target or target.name in _BEHIND:
        raise TargetError(f"another target is called `{target.name}`")
    _NAMED[target.name] = target
    return target


def _wrong_field(target: Target) -> str:
    """Return the name of a field that holds another kind of value, empty where none does: types are not checked."""
    known: Mapping[str, Any] = {
        "name": isinstance(target.name, str) and _NAME.fullmatch(target.name),
        "abilities": isinstance(target.abilities, Abilities),
        "instead": isinstance(target.instead, str),
        "distribution": target.distribution is None or (isinstance(target.distribution, str) and target.distribution),
        "about": isinstance(target.about, str),
        "forms": isinstance(target.forms, Mapping)
        and all(
            isinstance(name, str) and _NAME.fullmatch(name) and callable(form) for name, form in target.forms.items()
        ),
    }
    return next((field for field, is_right in known.items() if not is_right), "")


def default_target(format_: str) -> str:
    """Return the consumer of a model whose weights are stored in a format, where nobody names another."""
    return _DEFAULTS.get(format_, DEFAULT_TARGET)


def targets() -> dict[str, Target]:
    """Return every consumer that can be named, those of installed packages included."""
    _load_entry_points()
    return dict(_NAMED)


def target_named(name: str) -> Target | None:
    """Return the consumer that a policy can name so, `None` where there is none."""
    if name not in _NAMED and name not in _BEHIND:
        _load_entry_points()
    return _NAMED.get(name)


def target_of(name: str) -> Target:
    """Return a consumer by name. Raises `TargetError` with the likely one."""
    if not isinstance(name, str):
        raise TargetError(f"a target is named by text such as `hf`, not by a value of type {type(name).__name__}")
    found = _NAMED.get(name) or _BEHIND.get(name) or target_named(name)
    if found is None:
        raise TargetError(f"unknown target `{name}`: {did_you_mean(name, _NAMED)}")
    return found


def _load_entry_points() -> None:
    """Register the consumers of installed packages. One that is broken is an error that names its package."""
    if _loaded:
        return
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        try:
            made = point.load()
            register(made if isinstance(made, Target) else made())
        except KeyboardInterrupt:
            raise
        except BaseException as broken:  # one that exits, too: whatever it is, it is no end of this process
            package = point.dist.name if point.dist else point.value
            message = f"the target `{point.name}` of `{package}` cannot be loaded: {described(broken)}"
            raise TargetError(message) from broken
    _loaded.append(ENTRY_POINTS)
