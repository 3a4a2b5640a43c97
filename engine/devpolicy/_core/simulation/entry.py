"""`simulate_host`: how a simulation begins and ends.

Owns the arguments of the call. What libraries are answered is in `patched_libraries`."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from devpolicy._core.errors import DevPolicyError, SimulationDepthError
from devpolicy._core.host import Host
from devpolicy._core.host.facts import known_word
from devpolicy._core.simulation.children import offer
from devpolicy._core.simulation.decorate import decorated
from devpolicy._core.simulation.layers import needed
from devpolicy._core.simulation.patched_libraries import patched_libraries
from devpolicy._core.simulation.running import Simulation, begin, end, running, running_for_us, was_entered_here
from devpolicy._core.simulation.shims import Shims
from devpolicy._core.simulation.tensor_backend import TensorBackend
from devpolicy._core.simulator.loading import require_built

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from types import TracebackType

F = TypeVar("F", bound="Callable[..., Any]")

DEPTHS = ("value", "probes", "phantom", "tensors")
DEEP = ("phantom", "tensors")
"""Depths at which devices hold tensors: torch's devices are the process's, and so is the simulation."""
SCOPES = ("context", "process")

SHIMS = Shims(patched_libraries())
"""One for the process, whatever is entered: what is replaced twice cannot be put back in any order."""


class simulate_host:  # noqa: N801 - a verb, used as `with simulate_host(…)` and `@simulate_host(…)`
    """Let every library that asks about devices see `host` instead of this machine.

    `host` is a `Host`, a catalogue name, or a path to a host TOML. A context manager, whose target is the `Host`, and a
    decorator of functions, coroutine functions and generator functions of both kinds; a generator's body sees the
    host and its consumer does not. The same object may be entered again, nested, and in several threads.

    `depth`: `"probes"` answers the questions of torch, psutil, shutil, NVML and what builds on them; `"value"` only
    those of devpolicy (`Host.probe()`). At `"tensors"` the devices hold tensors and compute what the CPU computes; at
    `"phantom"` their tensors have sizes and no data. What a depth cannot answer truthfully raises
    `SimulationDepthError`.

    `scope`: `"context"` is this thread or task, and the tasks that it starts; `"process"` is every thread that has no
    simulation of its own, which is the only one at `"phantom"` and `"tensors"`: there one host runs at a time, and one
    that is entered inside another has it wait.

    `children`: whether Python processes that are started meanwhile are on the host too, and hold their tensors on the
    same devices. They are told by the environment variables PYTHONPATH and DEVPOLICY_SIMULATED, which are put back in
    the end; the scope is `"process"` then. Without it they see the real machine, except forks, which go on with a copy.

    Entering costs microseconds, except the first time after libraries were imported, which costs milliseconds. Raises
    `HostError` for a host that cannot be read and a word that is not known, `SimulationDepthError` for a depth that
    cannot be had here: the simulator is not built (`devpolicy simulator build`), or another host runs.
    """

    def __init__(
        self,
        host: Host | str | PathLike[str],
        *,
        depth: str = "probes",
        scope: str | None = None,
        children: bool = False,
    ) -> None:
        self.host: Host = host if isinstance(host, Host) else Host.load(host)
        # Most are spelt as they are here, and many tests enter a host.
        self.depth: str = depth if depth in DEPTHS else known_word(depth, "depth", DEPTHS)
        deep = self.depth in DEEP
        usual = "process" if deep or children else "context"
        self.scope: str = known_word(scope, "scope", SCOPES) if scope else usual
        self.children = children
        if self.scope != "process":
            if deep:
                raise SimulationDepthError(f"at depth `{self.depth}` the scope is `process`: torch's devices are")
            if children:
                raise SimulationDepthError("with `children` the scope is `process`: environment variables are")
        if deep:
            require_built(self.depth)
        self._layers = needed(self.host, tensors=deep)
        self._entered: list[Simulation] = []

    def __enter__(self) -> Host:
        outer = _suspended_by(self.depth)
        SHIMS.put(self._layers)
        simulation = begin(self.host, self, process=self.scope == "process", probes=self.depth != "value")
        self._entered.append(simulation)
        try:
            if outer is not None:
                outer.suspend()
                simulation.restore.append(outer.resume)
            shared = offer(simulation, self.depth) if self.children else None
            self._begin(simulation, shared)
        except BaseException:
            self._leave()
            raise
        return self.host

    def _begin(self, simulation: Simulation, shared: str | None) -> None:
        """Put the devices in place, which processes have in common that open the file `shared`."""
        simulation.more = _put_more
        if self.depth in DEEP:
            simulation.backend = TensorBackend(simulation, self.depth, shared)
            simulation.restore.append(simulation.backend.close)
        for entered in SHIMS.entered:
            entered(simulation)
        if simulation.backend is not None:
            for entered in SHIMS.tensors_entered:
                entered(simulation)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._entered:
            raise DevPolicyError("this simulation is left more often than it was entered")
        self._leave()

    def _leave(self) -> None:
        try:
            simulation = end(self, self._entered)
            for put_back in reversed(simulation.restore):
                put_back()
        finally:
            SHIMS.take(self._layers)

    def __call__(self, function: F) -> F:
        """Return `function` as one that runs on the host, each time that it is called.

        Raises `DevPolicyError` for a class: wrapped like a function it would be one, and test runners would not see it.
        """
        if isinstance(function, type):
            raise DevPolicyError(
                f"`simulate_host` decorates functions, and `{function.__name__}` is a class: mark it with "
                "`@pytest.mark.host(...)`, or write `self.enterContext(simulate_host(...))` in its `setUp`"
            )
        return decorated(self, function)


def _put_more(simulation: Simulation, layer: str) -> None:
    SHIMS.put_more(layer)
    simulation.restore.append(partial(SHIMS.take_more, layer))


class _Inherited(simulate_host):
    """The host of the process that started this one. It is left when this one ends.

    Its devices hold tensors from when torch is imported: most processes that a test starts need none.
    """

    def __init__(self, host: Host, depth: str, shared: str, *, visible: bool) -> None:
        super().__init__(host, depth="probes", scope="process")
        self.depth = depth
        self._layers = needed(host, tensors=depth in DEEP)
        self._shared = shared
        self._visible = visible

    def _begin(self, simulation: Simulation, shared: str | None) -> None:
        if self._visible:
            simulation.whole = simulation.host
        begin_here = partial(self._begin_here, simulation)
        if self.depth in DEEP and "torch" not in sys.modules:
            SHIMS.when_loaded("torch", begin_here)
        else:
            begin_here()

    def _begin_here(self, simulation: Simulation) -> None:
        # As a driver does, which reads the variable when it is initialised, and never again.
        simulation.see_visible()
        simulation.whole = None
        super()._begin(simulation, self._shared)


def enter_inherited(host: Host, depth: str, shared: str, *, visible: bool = False) -> None:
    """Put this process, which is starting, on the host of the one that started it."""
    _Inherited(host, depth, shared, visible=visible).__enter__()


def _suspended_by(depth: str) -> TensorBackend | None:
    """Return the devices that hold tensors and wait while another host is simulated inside theirs.

    Raises `SimulationDepthError` where they were not entered here: torch has them, whoever asks, and another thread
    would lose what it works with.
    """
    outer = running()
    if outer is not None and depth in DEEP:
        # The devices of an inherited host come with torch: they are there before others take their place.
        import_module("torch")
    if outer is None or outer.backend is None or depth == "value":
        return None
    if not was_entered_here(outer):
        raise SimulationDepthError(
            f"the simulated host `{outer.name}` runs at depth `{outer.backend.depth}` and was entered in another "
            f"thread: beside it no other host can be simulated at depth `{depth}`"
        )
    return outer.backend


def simulated_host() -> Host | None:
    """Return the host that is simulated here and now, `None` on the real machine."""
    simulation = running_for_us()
    return None if simulation is None else simulation.host


def replaced() -> list[tuple[dict[str, Any] | type, str]]:
    """Return every name that simulations have replaced so far, as the module's `vars` or the class, and the name."""
    return SHIMS.replaced()
