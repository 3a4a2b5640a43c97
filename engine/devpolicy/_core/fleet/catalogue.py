"""Fleets by name.

Owns where the shipped fleets are, and whether text names one of them, a file or a folder.
"""

from __future__ import annotations

from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, FleetError
from devpolicy._core.files import kind_of, list_folder
from devpolicy._core.fleet.reader import document, from_folder, read
from devpolicy._core.shipped import shipped_files
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.fleet.values import Fleet


def catalogue() -> dict[str, Callable[[], bytes]]:
    """Return the shipped fleets as `{name: read}`."""
    return {name: file.read_bytes for name, file in shipped_files("fixtures", "fleets").items()}


def load(name: str | PathLike[str]) -> Fleet:
    """Return a fleet by catalogue name, from a file, or from a folder of host files. Raises `FleetError`."""
    if isinstance(name, str):
        known = catalogue()
        if name in known:
            return read(document(known[name](), f"{name}.toml"), name)
        is_path = "/" in name or "\\" in name or name.endswith(".toml")
        if not is_path and kind_of(name, FleetError) != "folder":
            hint = f"{did_you_mean(name, known)}\nfor a file, write its path with `.toml`"
            raise FleetError(Diagnostic("DP202", f"no fleet is named `{name}`", help=hint))
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
