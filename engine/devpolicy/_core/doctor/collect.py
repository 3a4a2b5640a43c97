"""Collects a report from every library, each in a child process with a timeout.

Owns which libraries are installed, the processes, and that a crash, a hang or noise becomes a fault.
"""

from __future__ import annotations

import os
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.child_process import MALFORMED, ChildError, ask, interpreter, time_limit
from devpolicy._core.doctor.library_report import LIBRARIES, NEED_TORCH, OTHER_DISTRIBUTIONS, LibraryReport, read
from devpolicy._core.text import one_line
from devpolicy._core.threads import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.host import Host

AT_ONCE = 4
"""Children that run beside each other: each that imports torch takes some 300 MiB."""

# The folder that holds devpolicy comes last on the path: it may hold anything.
_START = "import sys; sys.path.append(sys.argv.pop()); from devpolicy._core.doctor.library_probes import main; main()"


def collect(libraries: Sequence[str], simulated: Host | None, timeout: float) -> tuple[LibraryReport, ...]:
    """Return the libraries' reports, in their order. `timeout` is in seconds, for each."""
    report = partial(_ask, host="" if simulated is None else simulated.to_toml(), timeout=timeout)
    versions = {library: _version(distribution) for library, distribution in LIBRARIES.items()}
    at_once = min(AT_ONCE, os.cpu_count() or 1)
    return tuple(map_in_threads(lambda library: _report(library, versions, report), libraries, at_once))


def _report(library: str, versions: dict[str, str | None], report: partial[LibraryReport]) -> LibraryReport:
    version = versions[library]
    if version is None:
        return LibraryReport(library)
    if library in NEED_TORCH and versions["torch"] is None:
        return LibraryReport(library, version, why="it chooses devices with torch, which is not installed")
    return report(library, version)


def _version(distribution: str) -> str | None:
    for name in (distribution, *OTHER_DISTRIBUTIONS.get(distribution, ())):
        try:
            # A damaged installation has no version.
            return one_line(metadata.version(name) or "") or "unknown"
        except metadata.PackageNotFoundError:
            continue
    return None


def _ask(library: str, version: str, host: str, timeout: float) -> LibraryReport:
    root = str(Path(__file__).parents[3])
    try:
        answer = ask([*interpreter("-c", _START), *time_limit(timeout), library, host, root], timeout)
        return read(library, version, answer)
    except ChildError as none:
        return LibraryReport(library, version, fault=str(none))
    except MALFORMED:
        return LibraryReport(library, version, fault="its answer makes no sense")
