"""The errors that devpolicy raises on purpose, and how they are written.

Owns the error family, the warning category and `Diagnostic`, which every reader of a file (policy, host, model)
collects and which every refusal of the planner carries. It depends on no policy, host or model.

The grammar of a message: lower case, no final period, what the user wrote in backticks,
no names of our types, help on its own line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

from devpolicy._core.public import public
from devpolicy._core.text import visible, visible_line

_public = public("devpolicy.errors")

WIDEST = 160
"""Characters of a line that a message shows; of a longer one, those around the place."""
MOST_SHOWN = 100
"""Findings that an error's text shows."""
MOST_KEPT = 1000
"""Findings that an error carries; of more, the last says how many were left out."""


@_public
@dataclass(frozen=True, slots=True)
class Place:
    """A position in a text. `line` and `column` count from 1, columns in characters."""

    source: str
    line: int
    column: int
    length: int
    text: str = field(default="", compare=False)
    """The line, or of a long one the part around the place; empty where it is not to be shown."""
    begin: int = field(default=0, compare=False)
    """Characters of the line before `text`."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Place:
        """Read what `Diagnostic.to_dict` writes of a place. Raises `KeyError` or `TypeError` for anything else."""
        source, line, column, length = (data[key] for key in ("source", "line", "column", "length"))
        if not isinstance(source, str) or any(type(number) is not int for number in (line, column, length)):
            raise TypeError("a place is a text and three numbers")
        return cls(source, line, column, length)


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
        """Return the finding as a compiler would print it, without colours, several lines.

        Text that was read from files is shown as text: no line of it can move a cursor or be a command of a CI log.
        """
        kind = f"{self.severity}[{self.code}]" if self.code else self.severity
        lines = [f"{kind}: {visible(self.message)}"]
        margin = " "
        if self.place is not None:
            place = self.place
            margin = " " * len(str(place.line))
            lines.append(f"{margin}--> {visible(str(place))}")
            if place.text:
                shown, carets = _underlined(place)
                lines += [f"{margin} |", f"{place.line} | {shown}"]
                lines.append(f"{margin} | {carets} {visible(self.label)}".rstrip())
                if self.notes or self.help:
                    lines.append(f"{margin} |")
        for name, text in [*(("note", note) for note in self.notes), ("help", self.help)]:
            if text:
                # Only a help has lines of its own.
                first, *more = text.split("\n") if name == "help" else [text]
                lines.append(f"{margin} = {name}: {visible(first)}")
                lines += [f"{margin}   {' ' * len(name)}  {visible(line)}" for line in more]
        return "\n".join(map(visible_line, lines))

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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnostic:
        """Read what `to_dict` wrote, without the line. Raises `KeyError`, `TypeError` or `ValueError` else.

        What has no place, label or notes may leave them out.
        """
        severity = data.get("severity", "warning")
        if severity not in ("error", "warning"):
            raise ValueError("a finding is an error or a warning")
        notes = tuple(data.get("notes", ()))
        texts = [data["code"], data["message"], data.get("label", ""), data["help"], *notes]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a finding is made of text")
        code, message, label, help_ = texts[:4]
        place = None if data.get("place") is None else Place.from_dict(data["place"])
        return cls(code, message, place, label, notes, help_, severity)


def _underlined(place: Place) -> tuple[str, str]:
    """Return what a message shows of a place's line, and the carets below it."""
    line, column = _window(place)
    before, marked = line[: column - 1], line[column - 1 : column - 1 + place.length]
    # What is escaped is wider than it is in the text, on both lines.
    return visible(line), " " * len(visible(before)) + "^" * max(1, len(visible(marked)))


def window(text: str, begin: int, stop: int, column: int) -> tuple[str, int]:
    """Return the part of the line `text[begin:stop]` that a message shows, and how many characters are before that.

    Costs the length of that part, and not of the line.
    """
    # One character more on each side tells that the line goes on there.
    first = max(0, min(column - 1 - WIDEST // 4, stop - begin - WIDEST) - 1)
    return text[begin + first : min(stop, begin + first + WIDEST + 2)], first


def _window(place: Place) -> tuple[str, int]:
    """Return what a message shows of a place's line, and the column in it."""
    # Tabs would shift the carets, so both lines show them as one space.
    line, column = place.text.replace("\t", " "), place.column - place.begin
    if len(line) <= WIDEST and not place.begin:
        return line, column
    begin = max(0, min(column - 1 - WIDEST // 4, len(line) - WIDEST))
    shown = line[begin : begin + WIDEST]
    if begin + WIDEST < len(line):
        shown = f"{shown[:-1]}…"
    return (f"…{shown[1:]}" if begin + place.begin else shown), column - begin


def reason_of(failure: Exception) -> str:
    """Return the system's reason why a file cannot be read or written, as the end of a message."""
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
            super().__init__(visible_line(findings))
            return
        self.diagnostics = (findings,) if isinstance(findings, Diagnostic) else _bounded(tuple(findings))
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


def _bounded(findings: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
    """Return findings of which a text may give any number: at most `MOST_KEPT`."""
    if len(findings) <= MOST_KEPT:
        return findings
    kept = findings[: MOST_KEPT - 1]
    rest = f"and {len(findings) - len(kept)} more findings: an error holds {MOST_KEPT}"
    return (*kept, Diagnostic("", rest, severity=findings[-1].severity))


def findings_at(
    broken: DevPolicyError,
    place: Place | None = None,
    *,
    note: str = "",
    code: str = "DP202",
    with_lines: bool = True,
) -> list[Diagnostic]:
    """Return an error's findings for the file that named what is wrong: at `place`, unless they have a place.

    `note` describes what named it. An error that is only a text becomes a finding of `code`. Without `with_lines` the
    lines of the file that was named are left out: whoever wrote its name may have meant any file of this machine.
    """
    findings = broken.diagnostics or (Diagnostic(code, str(broken)),)
    if not with_lines:
        findings = tuple(_without_line(one, place) for one in findings)
    first, *rest = findings
    notes = (*first.notes, note) if note else first.notes
    return [replace(first, place=first.place or place, notes=notes), *rest]


def _without_line(finding: Diagnostic, place: Place | None) -> Diagnostic:
    own = finding.place
    if own is None or (place is not None and own.source == place.source):
        return finding
    return replace(finding, place=replace(own, text="", begin=0))


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
class FleetError(DevPolicyError, ValueError):
    """A malformed fleet or fleet file, a name that the catalogue does not have, or a cluster that does not answer."""


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
class UnknownModuleError(DevPolicyError, KeyError):
    """A module that a plan does not have, with the likely one."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a `KeyError` shows the representation of its text


@_public
class MissingLibraryError(DevPolicyError, ImportError):
    """A library that the call needs is not installed here."""


@_public
class DevPolicyWarning(UserWarning):
    """A setting of a policy that has no effect here, or a choice that is likely unintended."""
