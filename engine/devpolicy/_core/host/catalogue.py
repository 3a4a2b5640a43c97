"""Hosts by name.

Owns where the shipped hosts are, and whether text names one of them or a file.
"""

from __future__ import annotations

from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, HostError
from devpolicy._core.host.reader import document, read
from devpolicy._core.shipped import shipped_files
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.host.values import Host


def catalogue() -> dict[str, Callable[[], bytes]]:
    """Return the shipped hosts as `{name: read}`; faulty ones are named `faulty/…` and come last."""
    groups = {"": shipped_files("fixtures", "hosts"), "faulty/": shipped_files("fixtures", "hosts", "faulty")}
    return {prefix + stem: file.read_bytes for prefix, files in groups.items() for stem, file in files.items()}


def load(name: str | PathLike[str]) -> Host:
    """Return a host by catalogue name, or from a file. Raises `HostError`."""
    if isinstance(name, str):
        known = catalogue()
        if name in known:
            return read(document(known[name](), f"{name}.toml"), name)
        if name.startswith("faulty/") or not _is_path(name):
            finding = Diagnostic("DP202", f"no host is named `{name}`", help=_way_out(name, known))
            raise HostError(finding)
    elif not isinstance(name, PathLike):
        raise HostError(f"a host is loaded by name or path, not by a value of type {type(name).__name__}")
    path = Path(fsdecode(name))
    return read(Document.open(path, HostError), path.stem)


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.endswith(".toml")


def _way_out(name: str, known: dict[str, Callable[[], bytes]]) -> str:
    # `ecc-on-query` was meant as `faulty/ecc-on-query`, which is not close as letters go.
    inside = [other for other in known if other.rpartition("/")[2] == name]
    likely = f"did you mean `{inside[0]}`?" if inside else did_you_mean(name, known)
    return f"{likely}\nfor a file, write its path with `.toml`"
