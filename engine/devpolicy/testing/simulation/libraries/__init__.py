"""The libraries that ask about devices, a module for each.

A module gives `ANSWERS`: for each Python module that is asked, what its functions answer on a simulated host. An answer
takes the running `Simulation` and then what the function takes. Functions that the installed version of a library
does not have are left out, so an answer never adds a name. Nothing of a library is imported before it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Answer = Callable[..., Any]
Answers = dict[str, dict[str, Answer]]


def all_answers() -> Answers:
    """Return the answers for every module that is asked."""
    from devpolicy.testing.simulation.libraries import memory, ours, torch_accelerator, torch_devices, torch_mps

    found: Answers = {}
    for library in (ours, memory, torch_devices, torch_mps, torch_accelerator):
        found.update(library.ANSWERS)
    return found
