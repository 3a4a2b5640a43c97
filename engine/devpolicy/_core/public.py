"""The module that a public object names as its own.

Owns the mark alone: what is public is listed by the public modules. A pickle, a traceback and `help` then name the
module that users import from, and the rooms below can be moved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Object = TypeVar("_Object")


def public(module: str) -> Callable[[_Object], _Object]:
    """Return a decorator that sets the module of a class or a function to `module`."""

    def mark(value: _Object) -> _Object:
        value.__module__ = module
        return value

    return mark
