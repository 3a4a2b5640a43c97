"""Hosts by name.

Owns where the shipped hosts are, and whether text names one of them or a file.
"""

from __future__ import annotations

from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import HostError
from devpolicy._core.host.reader import read
from devpolicy._core.names import is_path, shipped_names, unknown
from devpolicy._core.toml.document import Document

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.host.values import Host


def catalogue() -> dict[str, Callable[[], bytes]]:
    """Return the shipped hosts as `{name: read}`; faulty ones are named `faulty/…` and come last."""
    return {name: file.read_bytes for name, file in shipped_names("host").items()}


def load(name: str | PathLike[str]) -> Host:
    """Return a host by catalogue name, or from a file. Raises `HostError`."""
    if isinstance(name, str):
        known = catalogue()
        if name in known:
            return read(Document.read(known[name](), f"{name}.toml", HostError), name)
        if name.startswith("faulty/") or not is_path(name):
            raise HostError(unknown("host", name, hint="for a file, write its path with `.toml`"))
    elif not isinstance(name, PathLike):
        raise HostError(f"a host is loaded by name or path, not by a value of type {type(name).__name__}")
    path = Path(fsdecode(name))
    return read(Document.open(path, HostError), path.stem)
