"""Simulated hosts at the depth of probes: what libraries ask of a machine is answered by a `Host`.

entry.py       `simulate_host`
running.py     which simulation answers here and now
shims.py       functions of libraries, replaced while a simulation runs
scan.py        which modules hold them, and caches that would freeze an answer
build.py       a host's facts as torch would show them
refusal.py     what this depth cannot answer
libraries/     the questions and answers, a module for each library
"""

from __future__ import annotations

from devpolicy.errors import SimulationDepthError
from devpolicy.testing.simulation.entry import simulate_host, simulated_host

__all__ = ["SimulationDepthError", "simulate_host", "simulated_host"]
