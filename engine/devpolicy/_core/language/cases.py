"""What a test of a policy says, as frozen values with their places.

Owns `PolicyTest` and its parts. They are made by `language.tests` from TOML and run by `review`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.language.patterns import Pattern
    from devpolicy._core.language.policy import DeviceSelector
    from devpolicy._core.language.properties import Property


@dataclass(frozen=True, slots=True)
class Word:
    """A name that a test gives, to be looked up, and where it stands."""

    text: str
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Expected:
    """Where the modules of a pattern are expected: kept on `device`, and running on `runs_on`; `None` says nothing."""

    module: Pattern | None
    """`None` is the whole model."""
    device: DeviceSelector | None = None
    runs_on: DeviceSelector | None = None
    rule: str | None = None
    """The rule, or `prefer` or `overflow`, that must have decided it (`by`)."""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that `vary` changes of a host: `cuda.free`, `cuda:1.memory`, `cuda.count`, `memory`, `disk`, ..."""

    device: str
    """A type of accelerator or one device; empty for the machine's own."""
    fact: str
    values: tuple[int, ...]
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.device}.{self.fact}" if self.device else self.fact


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """One `[[test]]`: the hosts, a model, and what must hold on each."""

    name: str
    hosts: tuple[Word, ...] = ()
    model: Word | None = None
    component: Word | None = None
    profile: Word | None = None
    expect: tuple[Expected, ...] = ()
    error: str | None = None
    """The code of the refusal that is expected."""
    vary: tuple[Dimension, ...] = ()
    always: tuple[Property, ...] = ()
    place: Place | None = field(default=None, compare=False)
