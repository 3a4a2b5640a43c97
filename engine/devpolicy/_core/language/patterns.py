"""Patterns of module paths: `lm_head`, `model.layers.{16..}`, `**.self_attn.q_*`.

Owns their syntax, their meaning and the errors of malformed ones. It depends neither on a policy nor on a model: a path
is text, its segments separated by dots, and the root's is empty.

    pattern = segment *("." segment)
    segment = "**" / 1*(literal / "*" / range)     ; `**`: zero or more segments
    range   = "{" number ".." [number] "}"         ; both ends in, `{16..}` has no upper end

`*` matches any characters within one segment, also for none, but a segment is never empty. A
range stands for a whole number as Python writes it: `layer{0..3}*` covers `layer3_norm` and not
`layer31`. Everything else means itself; dots are dots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.ranges import RANGE

LONGEST = 1000
"""Characters of a pattern; longer ones are refused, so that compiling one is always quick."""

_SPECIAL = re.compile(r"[*{]")
_BRACES = re.compile(r"[{}]")
_DOT = re.compile(r"\.(?![^{}]*\})")  # but not those of a range; its braces are checked before
_MOST_DIGITS = 12


class PatternError(DevPolicyError, ValueError):
    """A malformed pattern. `offset` and `length` locate the characters that are wrong, `help` is the way out."""

    def __init__(self, message: str, offset: int = 0, length: int = 1, help: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.offset = offset
        self.length = length
        self.help = help

    def __reduce__(self) -> tuple[type[DevPolicyError], tuple[object, ...]]:  # type: ignore[override]
        return type(self), (str(self), self.offset, self.length, self.help)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of module paths. Two are equal when they are written alike.

    Raises `PatternError` where `text` is malformed.
    """

    text: str
    literal: bool = field(default=True, init=False, repr=False, compare=False)
    """Whether the pattern is one module's path."""
    _prefix: str = field(default="", init=False, repr=False, compare=False)
    """What every matched path begins with."""

    def __post_init__(self) -> None:
        _split(self.text)
        special = _SPECIAL.search(self.text)
        if special is not None:
            # `a.**` also means `a`, so a dot at the end of the prefix is left to the regex.
            object.__setattr__(self, "literal", False)
            object.__setattr__(self, "_prefix", self.text[: special.start()].removesuffix("."))

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern. Raises `PatternError`."""
        return cls(text)

    def __str__(self) -> str:
        return self.text

    def matches(self, path: str) -> bool:
        """Whether a module's own path is matched; its ancestors are not looked at. Linear in the path for each `*`."""
        if self.literal:
            return path == self.text
        if not path.startswith(self._prefix):
            return False
        return _regex(self.text).fullmatch(path + "." if path else "") is not None


@lru_cache(maxsize=4096)
def _regex(text: str) -> re.Pattern[str]:
    """Compile a pattern when it is first asked: of a policy's many, most are only ever matched together."""
    return re.compile(_translate(_DOT.split(text)))


def segments_of(pattern: Pattern) -> list[str]:
    """Return the segments of a pattern, as written."""
    return _DOT.split(pattern.text)


def _fail(text: str, why: str, offset: int, length: int, help: str = "") -> NoReturn:  # noqa: A002
    shown = text if len(text) <= 80 else f"{text[:79]}…"
    raise PatternError(f"`{shown}` is not a pattern: {why}", offset, length, help)


def _split(text: object) -> list[str]:
    """Return the segments of a well-formed pattern."""
    if not isinstance(text, str):
        raise PatternError(f"a pattern is text, not {text!r}")
    if not text:
        raise PatternError("a pattern is not empty", help="write `**` for the whole model")
    if len(text) > LONGEST:
        _fail(text, f"it has {len(text)} characters, and {LONGEST} are allowed", 0, len(text))
    _check_braces(text)
    segments = _DOT.split(text)
    offset = 0
    for segment in segments:
        if not segment:
            fixed = ".".join(part for part in segments if part)
            hint = f"did you mean `{fixed}`?" if fixed else "write `**` for the whole model"
            _fail(text, "a dot separates two names", max(0, offset - 1), 1, hint)
        if "**" in segment and segment != "**":
            hint = "`*` matches any characters within one segment"
            _fail(text, "`**` is a whole segment, between dots", offset + segment.index("**"), 2, hint)
        offset += len(segment) + 1
    return segments


def _check_braces(text: str) -> None:
    position = 0
    while (brace := _BRACES.search(text, position)) is not None:
        found = RANGE.match(text, brace.start())
        if found is None:
            _explain_brace(text, brace.start())
        _check_range(text, found)
        position = found.end()


def _explain_brace(text: str, at: int) -> NoReturn:
    """Say what is wrong with the brace at `at`, which begins no range."""
    usual = "a range is written `{0..15}`, or `{16..}` without an upper end"
    end = text.find("}", at)
    if text[at] == "}":
        _fail(text, "`}` closes nothing", at, 1, usual)
    if end < 0:
        _fail(text, "`{` is never closed", at, 1, usual)
    inside, length = text[at + 1 : end], end + 1 - at
    numbers = re.fullmatch(r"\s*([0-9]+)\s*(?:\.{1,3}|-|:|,)\s*([0-9]*)\s*", inside)
    if numbers is not None:
        usual = _instead(text, at, length, f"{{{numbers[1]}..{numbers[2]}}}")
    elif re.fullmatch(r"[0-9]+", inside):
        usual = _instead(text, at, length, inside)
    elif "," in inside:
        usual = "write a list of patterns, one for each alternative"
    _fail(text, f"`{{{inside}}}` is no range of numbers", at, length, usual)


def _check_range(text: str, found: re.Match[str]) -> None:
    low, high = found.groups()
    at, length = found.start(), len(found.group())
    if max(len(low), len(high)) > _MOST_DIGITS:
        _fail(text, "this number is too large", at, length)
    if not low:
        _fail(text, "a range has a lower end", at, length, _instead(text, at, length, f"{{0..{high}}}"))
    if any(len(number) > 1 and number[0] == "0" for number in (low, high)):
        fixed = f"{{{int(low)}..{int(high) if high else ''}}}"
        _fail(text, "modules are numbered without leading zeros", at, length, _instead(text, at, length, fixed))
    if high and int(low) > int(high):
        fixed = f"{{{high}..{low}}}"
        _fail(text, "this range ends before it begins", at, length, _instead(text, at, length, fixed))
    if re.match("[0-9}]", text[:at][-1:]) or re.match("[0-9{]", text[at + length :][:1]):
        _fail(text, "a range is a whole number, so no digit and no other range is next to it", at, length)


def _instead(text: str, at: int, length: int, fixed: str) -> str:
    return f"did you mean `{text[:at]}{fixed}{text[at + length :]}`?"


# Translation. The subject is the path with a dot behind each segment, so that every segment ends
# alike and the root is empty. Groups that search are atomic: what stands between two wildcards
# matches nowhere better than where it matches first, so nothing ever needs to be tried again, and
# no pattern takes exponential time.


def _translate(segments: list[str]) -> str:
    runs: list[str] = [""]
    for segment in segments:
        if segment == "**":
            runs.append("")
        else:
            runs[-1] += segment_regex(segment)
    first, *others = runs
    if not others:
        return first
    *middle, last = others
    searched = "".join(rf"(?>(?:[^.]*+\.)*?{run})" for run in middle if run)
    return first + searched + (rf"(?:[^.]*+\.)*{last}" if last else r"[\s\S]*+")


def segment_regex(segment: str) -> str:
    if segment == "*":
        return r"[^.]++\."
    first, *others = (_translate_piece(piece) for piece in segment.split("*"))
    if not others:
        return first + r"\."
    *middle, last = others
    return first + "".join(rf"(?>[^.]*?{piece})" for piece in middle) + rf"[^.]*{last}\."


def _translate_piece(piece: str) -> str:
    parts: list[str] = []
    end = 0
    for found in RANGE.finditer(piece):
        numbers = _numbers(found[1], found[2])
        parts += [re.escape(piece[end : found.start()]), f"(?<![0-9])(?:{numbers})(?![0-9])"]
        end = found.end()
    return "".join(parts) + re.escape(piece[end:])


def _numbers(low: str, high: str) -> str:
    """Return a regex of the decimal numbers from `low` to `high`, both in; an empty `high` is no end."""
    longest = len(high) if high else len(low)
    choices: list[str] = []
    for digits in range(len(low), longest + 1):
        smallest = low if digits == len(low) else "1" + "0" * (digits - 1)
        largest = high if digits == len(high) else "9" * digits
        choices.append(_same_length(smallest, largest))
    if not high:
        choices.append(f"[1-9][0-9]{{{len(low)},}}")
    return "|".join(choices)


def _same_length(low: str, high: str) -> str:
    if not low.strip("0") and not high.strip("9"):
        # All of them. Without this shortcut both ends would be split again and again: 2**digits choices.
        return "[0-9]" * len(low)
    first, last = low[0], high[0]
    if first == last:
        return first + _same_length(low[1:], high[1:])
    rest = len(low) - 1
    choices = [first + _same_length(low[1:], "9" * rest)]
    if int(last) - int(first) > 1:
        choices.append(f"[{int(first) + 1}-{int(last) - 1}]" + "[0-9]" * rest)
    choices.append(last + _same_length("0" * rest, high[1:]))
    return f"(?:{'|'.join(choices)})"
