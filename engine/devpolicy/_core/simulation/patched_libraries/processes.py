"""`multiprocessing`: a process that starts anew, and leaves the host, carries the name of it.

Owns how `Process.start` hands the name over; `devpolicy._core.left_host` uses it in the messages of that process.
"""

from __future__ import annotations

import multiprocessing
import os
from functools import wraps
from typing import TYPE_CHECKING, Any

from devpolicy._core.left_host import Left
from devpolicy._core.simulation.children import VARIABLE
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable


def _start(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(original)
    def start(process: Any) -> None:
        simulation = running()
        method = process._start_method or multiprocessing.get_start_method()
        # A fork goes on with the host, and who is told of it by the environment is on it.
        if simulation is None or method == "fork" or VARIABLE in os.environ:
            original(process)
            return
        process._left = Left(simulation.name)
        try:
            original(process)
        finally:
            del process._left

    return start


LIBRARY = Library(class_attributes={"multiprocessing.process": {"BaseProcess.start": _start}})
