"""One property, and what is raised where some do not hold.

Owns the form of a check and of its failure. The checks themselves are in the modules beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Generic, TypeVar

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.host import Host
from devpolicy._core.simulation.describe import describe
from devpolicy._core.text import visible, visible_line

Subject = TypeVar("Subject")


class ConformanceError(DevPolicyError, AssertionError):
    """Some properties do not hold: which ones, what was found instead, and of which host, a line each."""

    def __init__(self, text: str) -> None:
        super().__init__(())
        Exception.__init__(self, "\n".join(visible_line(line) for line in text.split("\n")))


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One property: its name, its claim as a sentence, and what finds where it does not hold.

    `find` returns a sentence for each violation, none where the property holds. `library` is a module that must be
    there to ask. Where no device works, one `of_devices` holds and reports nothing.
    """

    name: str
    claim: str
    find: Callable[[Subject], Iterable[str]]
    library: str | None = None
    of_devices: bool = False

    @property
    def possible(self) -> bool:
        """Whether the library that is asked is installed."""
        if self.library is None:
            return True
        try:
            return find_spec(self.library) is not None
        except ValueError:  # a module in `sys.modules` without a spec
            return True

    def __str__(self) -> str:
        return self.name


def check(
    *, library: str | None = None, of_devices: bool = False
) -> Callable[[Callable[[Subject], Iterable[str]]], Check[Subject]]:
    """Return a decorator that makes a function the `find` of a check of its name; its docstring is the claim."""

    def made(find: Callable[[Subject], Iterable[str]]) -> Check[Subject]:
        claim = (find.__doc__ or find.__name__).rstrip(".")  # `python -OO` leaves no docstrings
        return Check(find.__name__, claim[0].lower() + claim[1:], find, library, of_devices)

    return made


def hold(checks: Iterable[Check[Subject]], subject: Subject, host: Host) -> None:
    """Raise `ConformanceError` with every violation of the checks that are possible here."""
    lines = violations(checks, subject, "a host")
    if lines:
        shown = (f"  {line}" for line in describe(host).splitlines())
        raise ConformanceError("\n".join([*lines, "", "the host:", *shown]))


def violations(checks: Iterable[Check[Subject]], subject: Subject, what: str) -> list[str]:
    """Return the lines that describe every violation of the checks that are possible here, none where all hold."""
    ran = [one for one in checks if one.possible]
    broken = [(one, found) for one in ran if (found := _violations(one, subject))]
    if not broken:
        return []
    properties = "property" if len(ran) == 1 else "properties"
    lines = [f"{len(broken)} of {len(ran)} {properties} of {what} {'does' if len(broken) == 1 else 'do'} not hold"]
    for one, found in broken:
        lines += ["", f"`{one.name}`: {one.claim}", *(f"  but {visible(sentence)}" for sentence in found)]
    return lines


def _violations(one: Check[Subject], subject: Subject) -> list[str]:
    try:
        return list(one.find(subject))
    except Exception as raised:  # noqa: BLE001 - a driver, or a value that breaks a rule, may fail in any way
        return [f"asking raised {type(raised).__name__}: {raised}"]
