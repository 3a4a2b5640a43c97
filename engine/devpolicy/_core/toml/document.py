"""TOML text with places.

Owns the reading of TOML (by tomli) within limits, the way from a key path in the parsed data back to its line
and column, and the quoting of what is written. It does not interpret keys.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tomli

from devpolicy._core.errors import DevPolicyError, Diagnostic, Place, window
from devpolicy._core.files import LARGEST_FILE, read_file
from devpolicy._core.toml.amount import Bounds, excess
from devpolicy._core.toml.spans import KeyPath, Spans, index_spans

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

Part = Literal["key", "value", "header"]
"""`"header"` is a table's `"value"`, and says so."""

DEEPEST = 64
"""Tables and arrays nested deeper than this are not read, so that no reader runs out of stack."""
LONGEST_TEXT = 1 << 16
"""Characters of one key or text of a policy or a host: reasons and names are repeated for every module."""
MOST_VALUES = 20_000
"""Keys, parts of keys and entries of arrays that a policy or a host has at most, with the texts that it builds on."""
BOUNDS = Bounds(MOST_VALUES, LONGEST_TEXT)


class Inside(NamedTuple):
    """A part of a text that a key or value holds: characters of `text` from `offset` on."""

    text: str
    offset: int
    length: int


class Document:
    """One TOML text: `data` as tomli reads it, and `place` for any key path into it."""

    def __init__(
        self,
        text: str,
        source: str,
        error: type[DevPolicyError],
        folder: str | None = None,
        *,
        bounds: Bounds = BOUNDS,
        keys: Collection[str] = (),
    ) -> None:
        """Parse `text`, a file's of `folder`. Raises `error` with DP101 at the place where the syntax breaks.

        `bounds` are those of what it holds. `keys` are for a text that another file names, and not a person:
        it has one of them at its top, or none of its text is shown, for then it may be any file of this machine.
        """
        self.source = source
        self._folder = folder
        self._is_shown = not keys
        # tomli turns CRLF into LF before it counts, so places are counted on the same text.
        self.text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        too_much = self._too_much(bounds)
        if too_much is not None:
            raise error(too_much)
        try:
            self.data: dict[str, Any] = tomli.loads(self.text)
        except tomli.TOMLDecodeError as broken:
            raise error(self._syntax_error(broken)) from None
        except RecursionError:
            raise error(self._too_deep()) from None
        except ValueError:
            raise error(Diagnostic("DP101", "a number has thousands of digits", self._at(0, 0))) from None
        if keys and self.data and not any(key in self.data for key in keys):
            some = ", ".join(f"`{key}`" for key in list(keys)[:4])
            raise error(Diagnostic("DP101", f"`{source}` has none of the keys that are expected: {some} and others"))
        self._is_shown = True
        self.values = 0
        """Keys and entries of arrays, at every depth."""
        beyond = self._beyond_limits()
        if beyond is not None:
            raise error(beyond)

    @classmethod
    def read(
        cls, content: bytes, source: str, error: type[DevPolicyError], folder: str | None = None, **limits: Any
    ) -> Document:
        """Parse the bytes of a file. Raises `error` (DP101) where they are not UTF-8 or too many.

        `limits` are those of the constructor.
        """
        if len(content) > LARGEST_FILE:
            raise error(Diagnostic("DP101", f"`{source}` is larger than {LARGEST_FILE >> 20} MiB"))
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as broken:
            line = content.count(b"\n", 0, broken.start) + 1
            column = broken.start - (content.rfind(b"\n", 0, broken.start) + 1) + 1
            place = Place(source, line, column, 1, "")
            raise error(Diagnostic("DP101", "this is not UTF-8 text", place, help="save the file as UTF-8")) from None
        return cls(text, source, error, folder, **limits)

    @classmethod
    def of(cls, content: object, source: str, error: type[DevPolicyError], *, what: str) -> Document:
        """Parse text, or bytes as `read` does. Raises `error`, also where it is neither; `what` is what is read."""
        if isinstance(content, str):
            return cls(content, source, error)
        if isinstance(content, bytes):
            return cls.read(content, source, error)
        raise error(f"{what} is read from TOML text, not from a value of type {type(content).__name__}")

    @classmethod
    def open(cls, path: Path, error: type[DevPolicyError], **limits: Any) -> Document:
        """Read and parse a file. Raises `error` (DP109) where it cannot be read."""
        content = read_file(path, error, most=LARGEST_FILE)
        return cls.read(content, str(path), error, str(path.parent), **limits)

    def place(self, path: KeyPath, part: Part = "value", inside: Inside | None = None) -> Place:
        """Return the place of the key or the value of `path`; a table's value is its header, if it has one.

        A path that the text does not hold (a missing key) gives its nearest table. `inside` narrows the
        place to a part of a text, if the text is written without escapes.
        """
        known = self._nearest(path)
        if not known:
            return self._at(0, 0)
        span = self._spans[known]
        start, end = span.key if part == "key" and known == path else span.value
        if inside is not None:
            for opening in (0, 1, 3):  # a bare key, quotes, three quotes
                first = start + opening
                if opening + len(inside.text) + opening == end - start and self.text.startswith(inside.text, first):
                    return self._at(first + inside.offset, first + inside.offset + inside.length)
        return self._at(start, end)

    def order(self, path: KeyPath) -> tuple[int, ...]:
        """Return what sorts keys as they are written."""
        known = self._nearest(path)
        return self._spans[known].key if known else (0, 0)

    def _nearest(self, path: KeyPath) -> KeyPath:
        """Return the path of the nearest table or key that the text holds."""
        while path and path not in self._spans:
            path = path[:-1]
        return path

    def written(self, path: KeyPath) -> tuple[str, KeyPath]:
        """Return an empty name and the path: there is no other text."""
        return "", path

    def folder(self, path: KeyPath) -> str | None:
        """Return the folder of the file, `None` where the text is none."""
        return self._folder

    @cached_property  # most documents are never asked for a place
    def _spans(self) -> dict[KeyPath, Spans]:
        return index_spans(self.text)

    @cached_property
    def _line_starts(self) -> array[int]:
        return array("L", chain((0,), (found.end() for found in re.finditer("\n", self.text))))

    def _at(self, start: int, end: int) -> Place:
        number = bisect_right(self._line_starts, start)
        begin = self._line_starts[number - 1]
        stop = self._line_starts[number] - 1 if number < len(self._line_starts) else len(self.text)
        column, length = start - begin + 1, max(1, min(end, stop) - start)
        if not self._is_shown:
            return Place(self.source, number, column, length)
        # Of a long line only what a message shows is kept: each finding has a copy of it.
        shown, left_out = window(self.text, begin, stop, column)
        return Place(self.source, number, column, length, shown, left_out)

    def _syntax_error(self, broken: tomli.TOMLDecodeError) -> Diagnostic:
        message, at = broken.msg[:1].lower() + broken.msg[1:], broken.pos
        if re.match("cannot|duplicate", message):
            # tomli notices a repetition behind the statement, and names the key in its own terms.
            end = len(self.text[:at].rstrip())
            begin = self.text.rfind("\n", 0, end) + 1
            begin += len(self.text[begin:end]) - len(self.text[begin:end].lstrip())
            return Diagnostic("DP101", "a key or a table is given twice", self._at(begin, end), "not the first time")
        if message == r"illegal character '\n'":
            message = "a string is not closed on its line"
        elif message == "invalid value" and not self.text[at:].strip():
            message = "the text ends where a value is expected"
        return Diagnostic(
            "DP101", f"this is not TOML: {message}", self._at(at, at + 1), help=_way_out(message, self.source)
        )

    def _too_deep(self) -> Diagnostic:
        return Diagnostic("DP101", f"tables or arrays are nested deeper than {DEEPEST} levels", self._at(0, 0))

    def _too_much(self, bounds: Bounds) -> Diagnostic | None:
        """Return what is wrong with a text that nobody should have to parse."""
        found = excess(self.text, bounds)
        if found is None:
            return None
        if found.end:
            message = f"this text has more than {bounds.characters} characters"
            return Diagnostic("DP101", message, self._at(*found), "too long")
        message = f"`{self.source}` has more than {bounds.values} keys, parts of keys and entries of arrays"
        return Diagnostic("DP101", message, help="nobody wrote so many: write patterns instead of every name")

    def _beyond_limits(self) -> Diagnostic | None:
        """Count the values. Return what is wrong with a text that is TOML, and that no reader should have to take."""
        stack: list[tuple[KeyPath, dict[str, Any] | list[Any]]] = [((), self.data)]
        too_large: KeyPath = ()
        while stack:
            path, container = stack.pop()
            if len(path) > DEEPEST:
                return self._too_deep()
            self.values += len(container)
            for key, value in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(value, dict | list):
                    stack.append(((*path, key), value))
                elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                    too_large = (*path, key)
        # Only now, because looking for a place also needs a text that is not nested deeply.
        if too_large:
            return Diagnostic("DP101", "this number is too large", self.place(too_large), "more than 64 bits")
        return None


def _way_out(message: str, source: str) -> str:
    """Return help for the errors of tomli that people meet most often."""
    if source.endswith((".yaml", ".yml")):
        return "policies are TOML; a saved pipeline is given with `--pipeline`"
    if message == "invalid statement":
        return "a line is `key = value` or `[table]`, and a comment begins with `#`"
    if "escape" in message or "hex value" in message:
        return r"write `\\` for each `\`, or the text in single quotes: 'C:\models'"
    if "key" in message:
        return "a key is letters, digits, `-` and `_`, or text in quotes; `=` follows it"
    if "invalid value" in message:
        return 'text is written in quotes, such as "cuda"; `true` and `false` are lower case'
    if "after a statement" in message:
        return 'text is written in quotes, such as "24 GiB"'
    if any(
        said in message
        for said in ("not closed", "unclosed", "ends where", "unterminated", "declaration", 'expected "\'"')
    ):
        return "a quote, a bracket or a brace is missing"
    return ""
