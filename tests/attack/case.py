"""What a door makes: a command, and what it finds in its environment."""

from __future__ import annotations

from typing import Any, NamedTuple

HOST = ("--host", "1x24gb")
DRY_RUN_SECONDS = 60
"""How long a model is tried, which `--timeout` says."""


class Case(NamedTuple):
    """A command, and what it finds in its environment."""

    arguments: list[str]
    environment: dict[str, str] = {}  # noqa: RUF012 - never changed
    answer: tuple[str, Any] | None = None
    """A question to the Python API in place of a command: its name, and what is asked about."""
    server: str | None = None
    """The address of the one server that may be asked."""
    outside: bool = False
    """Whether it starts processes, and runs as the installed command, each process of it guarded."""
    packages: str | None = None
    """The folder of installed packages, whose code may run."""


def planned(model: str) -> list[str]:
    """Return the command that plans a model."""
    return ["plan", "prefer-accelerator", "--model", model, *HOST]
