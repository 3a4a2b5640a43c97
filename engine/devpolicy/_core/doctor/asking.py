"""Asking every library, each in a child process with a timeout.

Owns which are installed, the processes, and that no crash, hang or noise of theirs is more than a fault.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.doctor.told import LIBRARIES, NEED_TORCH, Told, read
from devpolicy._core.host.probe.answer import MALFORMED, clean
from devpolicy._core.host.probe.child import NoAnswer, ask, interpreter, time_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.host import Host

AT_ONCE = 4
"""Children that run beside each other: each that imports torch takes some 300 MiB."""

# Where devpolicy is goes last: beside it may stand anything.
_START = "import sys; sys.path.append(sys.argv.pop()); from devpolicy._core.doctor.questions import main; main()"


def ask_all(libraries: Sequence[str], simulated: Host | None, timeout: float) -> tuple[Told, ...]:
    """Return what libraries tell, in their order. `timeout` is in seconds, for each."""
    ask = partial(_ask, host="" if simulated is None else simulated.to_toml(), timeout=timeout)
    versions = {library: _version(distribution) for library, distribution in LIBRARIES.items()}
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(lambda library: _told(library, versions, ask), libraries))


def _told(library: str, versions: dict[str, str | None], ask: partial[Told]) -> Told:
    version = versions[library]
    if version is None:
        return Told(library)
    if library in NEED_TORCH and versions["torch"] is None:
        return Told(library, version, why="it chooses devices with torch, which is not installed")
    return ask(library, version)


def _version(distribution: str) -> str | None:
    try:
        # A damaged installation has no version.
        return clean(metadata.version(distribution) or "") or "unknown"
    except metadata.PackageNotFoundError:
        return None


def _ask(library: str, version: str, host: str, timeout: float) -> Told:
    root = str(Path(__file__).parents[3])
    try:
        told = ask([*interpreter(script=_START), *time_limit(timeout), library, host, root], timeout)
        return read(library, version, told)
    except NoAnswer as none:
        return Told(library, version, fault=str(none))
    except MALFORMED:
        return Told(library, version, fault="its answer makes no sense")
