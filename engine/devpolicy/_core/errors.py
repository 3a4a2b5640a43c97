"""The errors that devpolicy raises on purpose, and how they are written.

Owns the error family, the warning category and `Diagnostic`, which every reader of a
file (policy, host, model) collects and which every refusal of the planner carries. It knows
nothing of policies, hosts or models.

The grammar of a message: lower case, no final period, what the user wrote in backticks,
no names of our types, help on its own line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from devpolicy._core.public import public

_public = public("devpolicy.errors")

WIDEST = 160
"""Characters of a line that a message shows; of a longer one, those around the place."""
MOST_SHOWN = 100
"""Findings that an error's text shows; `diagnostics` holds all of them."""


@_public
@dataclass(frozen=True, slots=True)
class Place:
    """Where in a text something stands. `line` and `column` count from 1, columns in characters."""

    source: str
    line: int
    column: int
    length: int
    text: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


@_public
@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: a code, a message, and where known its place and a way out."""

    code: str
    message: str
    place: Place | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    help: str = ""
    severity: Literal["error", "warning"] = "error"

    def render(self) -> str:
        """Return the finding as a compiler would print it, without colours, several lines."""
        kind = f"{self.severity}[{self.code}]" if self.code else self.severity
        lines = [f"{kind}: {self.message}"]
        margin = " "
        if self.place is not None:
            place = self.place
            margin = " " * len(str(place.line))
            lines.append(f"{margin}--> {place}")
            if place.text:
                shown, column = _window(place.text, place.column)
                width = max(1, min(place.length, len(shown) - column + 1))
                carets = " " * (column - 1) + "^" * width
                lines += [f"{margin} |", f"{place.line} | {shown}"]
                lines.append(f"{margin} | {carets} {self.label}".rstrip())
                if self.notes or self.help:
                    lines.append(f"{margin} |")
        for name, text in [*(("note", note) for note in self.notes), ("help", self.help)]:
            if text:
                first, *more = text.splitlines()
                lines.append(f"{margin} = {name}: {first}")
                lines += [f"{margin}   {' ' * len(name)}  {line}" for line in more]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """Return the finding for machines: `place` is null or its source, line, column and length."""
        place = self.place
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "place": None
            if place is None
            else {
                "source": place.source,
                "line": place.line,
                "column": place.column,
                "length": place.length,
            },
            "label": self.label,
            "notes": list(self.notes),
            "help": self.help,
        }


def _window(line: str, column: int) -> tuple[str, int]:
    """Return what a message shows of a line, and the column in it."""
    # Tabs would shift the carets, so both lines show them as one space.
    line = line.replace("\t", " ")
    if len(line) <= WIDEST:
        return line, column
    begin = max(0, min(column - 1 - WIDEST // 4, len(line) - WIDEST))
    shown = line[begin : begin + WIDEST]
    if begin + WIDEST < len(line):
        shown = f"{shown[:-1]}…"
    return (f"…{shown[1:]}" if begin else shown), column - begin


def reason_of(failure: Exception) -> str:
    """Return what the system says of a file that cannot be read or written, as the end of a message."""
    return str(getattr(failure, "strerror", None) or failure).lower()


@_public
class DevPolicyError(Exception):
    """Base of every error that devpolicy raises on purpose.

    `diagnostics` holds the findings, `exit_status` what the command line returns for it.
    """

    exit_status: ClassVar[int] = 2
    diagnostics: tuple[Diagnostic, ...]

    def __init__(self, findings: str | Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(findings, str):
            self.diagnostics = ()
            super().__init__(findings)
            return
        self.diagnostics = (findings,) if isinstance(findings, Diagnostic) else tuple(findings)
        shown = [finding.render() for finding in self.diagnostics[:MOST_SHOWN]]
        if len(self.diagnostics) > MOST_SHOWN:
            shown.append(f"and {len(self.diagnostics) - MOST_SHOWN} more findings")
        super().__init__("\n\n".join(shown))

    def __reduce__(self) -> tuple[type[DevPolicyError], tuple[object]]:
        # Worker processes (pytest-xdist, multiprocessing) hand errors over by pickling.
        return type(self), (self.diagnostics or str(self),)

    @property
    def code(self) -> str | None:
        """The code of the first finding, `None` where the error has none."""
        return self.diagnostics[0].code if self.diagnostics else None


def findings_at(
    broken: DevPolicyError, place: Place | None = None, *, note: str = "", code: str = "DP202"
) -> list[Diagnostic]:
    """Return what is wrong with something for whoever named it: at `place` where it has no place of its own.

    `note` says what named it. An error that is only a text becomes a finding of `code`.
    """
    first, *rest = broken.diagnostics or (Diagnostic(code, str(broken)),)
    notes = (*first.notes, note) if note else first.notes
    return [replace(first, place=first.place or place, notes=notes), *rest]


@_public
class DeviceError(DevPolicyError, ValueError):
    """A malformed device, device map or component device."""


@_public
class PolicyError(DevPolicyError, ValueError):
    """A policy that cannot be read: carries every finding, each with its place."""


@_public
class HostError(DevPolicyError, ValueError):
    """A malformed host or host file, or a name that the catalogue does not have."""


@_public
class ModelError(DevPolicyError, ValueError):
    """A malformed model file, a folder that is no checkpoint, or a name that the catalogue does not have."""


@_public
class Unsatisfiable(DevPolicyError):  # noqa: N818 - it names a state of the world, not a mistake
    """A valid policy that this host, model and consumer cannot satisfy (DP3xx, DP4xx)."""

    exit_status: ClassVar[int] = 3


@_public
class SimulationDepthError(DevPolicyError):
    """A question that a simulated host cannot answer truthfully at its depth, or a depth that is not there yet.

    It is no `RuntimeError`, so that code which takes one for "no such device" and goes on with the CPU stops here.
    """


@_public
class MissingLibraryError(DevPolicyError, ImportError):
    """A library that the call needs is not installed here."""


@_public
class DevPolicyWarning(UserWarning):
    """Something that a policy says and that has no effect here, or a choice that is likely not meant."""
