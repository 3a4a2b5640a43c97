"""Stand-ins for values that a library took when it was imported.

Owns flags that follow the host, and values that each simulation has its own of. Which library has which is in the
modules beside it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from devpolicy._core.simulation.running import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devpolicy._core.simulation.patched_libraries import Make
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


class OfEachSimulation:
    """A dict of a class, which all its instances share: one for the real machine, and one for each simulation."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        simulation = running()
        if simulation is None:
            # The original may be a descriptor itself.
            get = getattr(type(self._original), "__get__", None)
            return self._original if get is None else get(self._original, instance, owner)
        if self not in simulation.memo:
            self.begun(simulation)
        return simulation.memo.setdefault(self, {})

    def begun(self, simulation: Simulation) -> None:
        """Do what is to be done before a simulation has its dict."""


class KeptDict(MutableMapping[Any, Any]):
    """A dict of a module, in which it keeps what it has made: one for the real machine, and one for each simulation."""

    def __init__(self, original: dict[Any, Any]) -> None:
        self._original = original

    def _here(self) -> dict[Any, Any]:
        simulation = running()
        return self._original if simulation is None else simulation.memo.setdefault(self, {})

    def __hash__(self) -> int:
        return id(self)

    def __getitem__(self, key: Any) -> Any:
        return self._here()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._here()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._here()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self._here())


def flag(answer: Callable[[Simulation], bool]) -> Make:
    """Return what makes a `Flag` of a constant."""

    def make(original: Any) -> Flag:
        return Flag(original, answer)

    return make
