"""Stand-ins for values that a library took when it was imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpolicy._core.simulation.libraries import Make
    from devpolicy._core.simulation.running import Simulation


class Flag:
    """A truth value that is decided when it is asked. Outside a simulation it is what it was."""

    __slots__ = ("_answer", "_original")

    def __init__(self, original: object, answer: Callable[[Simulation], bool]) -> None:
        self._original = original
        self._answer = answer

    def __bool__(self) -> bool:
        simulation = running()
        return bool(self._original) if simulation is None else self._answer(simulation)

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        return hash(bool(self))

    def __repr__(self) -> str:
        return repr(bool(self))


def flag(answer: Callable[[Simulation], bool]) -> Make:
    """Return what makes a `Flag` of a constant."""

    def make(original: Any) -> Flag:
        return Flag(original, answer)

    return make
