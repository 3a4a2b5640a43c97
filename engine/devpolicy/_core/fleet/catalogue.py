"""Fleets by name.

Owns where the shipped fleets are, and whether text names one of them, a file or a folder.
"""

from __future__ import annotations

from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, FleetError
from devpolicy._core.files import kind_of, list_folder
from devpolicy._core.fleet.reader import from_folder, read
from devpolicy._core.names import is_path, shipped_names, unknown
from devpolicy._core.toml.document import Document

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.fleet.values import Fleet


def catalogue() -> dict[str, Callable[[], bytes]]:
    """Return the shipped fleets as `{name: read}`."""
    return {name: file.read_bytes for name, file in shipped_names("fleet").items()}


def load(name: str | PathLike[str]) -> Fleet:
    """Return a fleet by catalogue name, from a file, or from a folder of host files. Raises `FleetError`."""
    if isinstance(name, str):
        known = catalogue()
        if name in known:
            return read(Document.read(known[name](), f"{name}.toml", FleetError), name)
        if not is_path(name) and kind_of(name, FleetError) != "folder":
            raise FleetError(unknown("fleet", name, hint="for a file, write its path with `.toml`"))
    elif not isinstance(name, PathLike):
        raise FleetError(f"a fleet is loaded by name or path, not by a value of type {type(name).__name__}")
    path = Path(fsdecode(name))
    if kind_of(path, FleetError) != "folder":
        return read(Document.open(path, FleetError), path.stem)
    files = [entry for entry in list_folder(path, FleetError) if entry.endswith(".toml")]
    if not files:
        hint = "`devpolicy host capture --output FOLDER/NODE.toml` on each machine writes one"
        raise FleetError(Diagnostic("DP105", f"`{path}` holds no host file, which ends in `.toml`", help=hint))
    return from_folder(path, files)
