"""Simulated hosts: what libraries ask of a machine is answered by a `Host`, and its devices may hold tensors.

    entry.py       `simulate_host`
    decorate.py    a context manager as a decorator of every kind of function
    running.py     which simulation answers here and now
    shims.py       names of libraries, replaced while a simulation runs
    layers.py      which of them a simulation needs
    patches.py     putting them in place and back
    scan.py        which modules hold them, and caches that would freeze an answer
    imports.py     libraries that are imported while a simulation runs
    children.py    processes that are started meanwhile
    hook/          what Python runs in them when it starts
    build.py       a host's facts as torch would show them
    tensor_backend.py  the devices of the two deep depths, which hold tensors
    device.py      one of them, in a test's hands
    refusal.py     what a depth cannot answer
    patched_libraries/  the questions and answers, a module for each library

What holds when the last simulation of the process has ended: every name that was replaced has the value that it had
(`replaced` lists them), `functools` caches hold what they held, accelerate's singletons are those of before, and the
current devices, thinc's backend and `sys.meta_path` too. What a caller keeps is the caller's: an object made
inside, or a function that it took from a library by hand, which answers for the real machine once the simulation ends.

A simulation changes no environment variable and nothing of the operating system (`platform`, `os`, `/proc`), and a
child process sees the real machine, unless `children` asks for the contrary; one of `multiprocessing` that starts anew
says in torch's errors which host it left. The software is the one that is installed
here: a host with an NPU does not bring torch_npu, and one with a GPU brings no CuPy.
"""

from __future__ import annotations

from devpolicy._core.errors import SimulationDepthError
from devpolicy._core.simulation.device import SimulatedDevice, simulated_device
from devpolicy._core.simulation.entry import replaced, simulate_host, simulated_host

__all__ = [
    "SimulatedDevice",
    "SimulationDepthError",
    "replaced",
    "simulate_host",
    "simulated_device",
    "simulated_host",
]
