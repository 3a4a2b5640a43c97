"""`simulate_host`: the door.

Owns what a caller may write, and the two ends of a simulation. Which questions are answered stands in `libraries`.
"""

from __future__ import annotations

from functools import cache, wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar

from devpolicy.errors import DevPolicyError, SimulationDepthError
from devpolicy.host import Host
from devpolicy.host.facts import known_word
from devpolicy.testing.simulation.libraries import all_answers, ours
from devpolicy.testing.simulation.running import Simulation, begin, end, running
from devpolicy.testing.simulation.shims import Shims

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from types import TracebackType

F = TypeVar("F", bound="Callable[..., Any]")

DEPTHS = ("value", "probes", "phantom", "tensors")
LATER = ("phantom", "tensors")
SCOPES = ("context", "process")


class simulate_host:  # noqa: N801 - a verb, used as `with simulate_host(…)` and `@simulate_host(…)`
    """Let every library that asks about devices see `host` instead of this machine.

    `host` is a `Host`, a catalogue name, or a path to a host TOML. A context manager, whose target is the `Host`, and a
    decorator of functions, coroutine functions and generator functions of both kinds; a generator's body sees the
    host and its consumer does not. The same object may be entered again, nested, and in several threads.

    `depth`: `"probes"` answers the questions of torch, psutil, shutil, NVML and what builds on them; `"value"` only
    those of devpolicy (`Host.probe()`). What a depth cannot answer truthfully raises `SimulationDepthError`.

    `scope`: `"context"` is this thread or task, and tasks that it starts; `"process"` is every thread that has no
    simulation of its own. Child processes see the real machine.

    Raises `HostError` for a host that cannot be read and a word that is not known, `SimulationDepthError` for a depth
    that is not there yet.
    """

    def __init__(self, host: Host | str | PathLike[str], *, depth: str = "probes", scope: str = "context") -> None:
        self.host = host if isinstance(host, Host) else Host.load(host)
        self.depth = known_word(depth, "depth", DEPTHS)
        self.scope = known_word(scope, "scope", SCOPES)
        if self.depth in LATER:
            raise SimulationDepthError(f"`depth = {self.depth!r}` is not there yet: `probes` is the deepest")
        self._entered: list[Simulation] = []

    def __enter__(self) -> Host:
        shims = _shims(self.depth)
        shims.put()
        try:
            self._entered.append(begin(self.host, self, process=self.scope == "process"))
        except BaseException:
            shims.take()
            raise
        return self.host

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._entered:
            raise DevPolicyError("this simulation was left more often than it was entered")
        end(self, self._entered)
        _shims(self.depth).take()

    def __call__(self, function: F) -> F:
        """Run `function` on the host, each time that it is called."""
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return called  # type: ignore[return-value]


@cache
def _shims(depth: str) -> Shims:
    return Shims(ours.ANSWERS if depth == "value" else all_answers())


def simulated_host() -> Host | None:
    """Return the host that is simulated here and now, `None` on the real machine."""
    simulation = running()
    return None if simulation is None else simulation.host
