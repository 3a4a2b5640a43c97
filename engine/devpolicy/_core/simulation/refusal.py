"""How a simulated host refuses what it cannot answer.

Owns the messages. A refusal names the host, the depth and what would have been needed, since the reader is looking at a
traceback in a library that is unaware of simulations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.errors import SimulationDepthError

if TYPE_CHECKING:
    from devpolicy._core.simulation.running import Simulation


def refusal(simulation: Simulation, what: str) -> SimulationDepthError:
    """Return the error for a question, written as a user would write it (`torch.cuda.Stream()`)."""
    if simulation.backend is not None:
        return SimulationDepthError(
            f"`{what}` cannot be answered on the simulated host `{simulation.name}`: at depth "
            f"`{simulation.backend.depth}` its devices hold tensors, and what only a real one knows or does is refused"
        )
    return SimulationDepthError(
        f"`{what}` cannot be answered on the simulated host `{simulation.name}`: at depth `probes` its devices answer "
        "questions about themselves, and hold and compute nothing"
    )
