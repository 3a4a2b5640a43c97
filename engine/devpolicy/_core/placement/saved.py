"""Saved plans, of one host and of a fleet: how their JSON is read, and what is said of one that is none.

Owns `PlanError` and the largest file that is read. What a plan holds is its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Protocol, TypeVar

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.files import read_file

LARGEST_PLAN = 64 << 20
"""A file of more bytes than this is not read as a plan."""


class PlanError(DevPolicyError, ValueError):
    """A serialised plan that cannot be read."""


class _Saved(Protocol):
    @property
    def digest(self) -> str: ...


P = TypeVar("P", bound=_Saved)


def read_plan(data: Mapping[str, Any], make: Callable[[Mapping[str, Any]], P], what: str) -> P:
    """Return what `make` reads out of JSON. `what` is a plan in words.

    Raises `PlanError` where it is of another schema, malformed, or not what its digest says.
    """
    try:
        schema = data["schema"]
        if type(schema) is not int:
            raise TypeError("`schema` is a number")
        if schema != 1:
            raise PlanError(f"{what} of schema {schema} cannot be read: this version reads 1")
        plan, stated = make(data), data["digest"]
    except PlanError:
        raise
    except KeyError as missing:
        raise PlanError(f"this is no serialised plan: it has no `{missing.args[0]}`") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as broken:
        raise PlanError(f"this is no serialised plan: {type(broken).__name__}: {broken}") from None
    if stated != plan.digest:
        raise PlanError("the plan was changed after it was made: its digest does not match")
    return plan


def load_json(path: str | PathLike[str]) -> Any:
    """Return the JSON of a plan's file. Raises `PlanError`, DP109 where the file cannot be read."""
    if not isinstance(path, str | PathLike):
        raise PlanError(f"a plan's file is named by text or a path, not by a value of type {type(path).__name__}")
    content = read_file(path, PlanError, most=LARGEST_PLAN)
    try:
        return json.loads(content[: LARGEST_PLAN + 1])
    except (ValueError, RecursionError) as broken:
        raise PlanError(f"`{path}` is no plan: {broken}") from None
