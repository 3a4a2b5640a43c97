"""TOML text with places.

Owns the reading of TOML (by tomli) and the way from a key path in the parsed data back to its
line and column. tomli gives no positions for values, so a small scanner indexes a text that
tomli has already accepted; it runs only when a place is asked for. It knows no key's meaning.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tomli

from devpolicy.errors import DevPolicyError, Diagnostic, Place

KeyPath = tuple[str | int, ...]
Part = Literal["key", "value", "header"]

LARGEST_FILE = 4 << 20
"""A policy or a host of more bytes than this is not read: nobody wrote it."""


class Spans(NamedTuple):
    """Character offsets of a key and of its value, or for a table of its header."""

    key: tuple[int, int]
    value: tuple[int, int]


class Document:
    """One TOML text: `data` as tomli reads it, and `place` for any key path into it."""

    def __init__(self, text: str, source: str, error: type[DevPolicyError]) -> None:
        """Parse `text`. Raises `error` with DP101 at the place where the syntax breaks."""
        self.source = source
        # tomli turns CRLF into LF before it counts, so places are counted on the same text.
        self.text = text.replace("\r\n", "\n")
        try:
            self.data: dict[str, Any] = tomli.loads(self.text)
        except tomli.TOMLDecodeError as broken:
            raise error(self._syntax_error(broken)) from None
        except (RecursionError, ValueError) as broken:
            # Numbers of thousands of digits, and nesting beyond the interpreter's stack.
            finding = Diagnostic("DP101", "this cannot be read as TOML", self._at(0, 1), str(broken))
            raise error(finding) from None

    @classmethod
    def read(cls, content: bytes, source: str, error: type[DevPolicyError]) -> Document:
        """Parse the bytes of a file. Raises `error` (DP101) where they are not UTF-8 or too many."""
        if len(content) > LARGEST_FILE:
            raise error(Diagnostic("DP101", f"`{source}` is larger than {LARGEST_FILE >> 20} MiB"))
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as broken:
            line = content.count(b"\n", 0, broken.start) + 1
            column = broken.start - (content.rfind(b"\n", 0, broken.start) + 1) + 1
            place = Place(source, line, column, 1, "")
            raise error(Diagnostic("DP101", "this is not UTF-8 text", place, help="save the file as UTF-8")) from None
        return cls(text, source, error)

    @classmethod
    def open(cls, path: Path, error: type[DevPolicyError]) -> Document:
        """Read and parse a file. Raises `error` (DP109) where it cannot be read."""
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as broken:
            reason = getattr(broken, "strerror", None) or str(broken)
            raise error(Diagnostic("DP109", f"cannot read `{path}`: {reason.lower()}")) from None
        return cls.read(content, str(path), error)

    def place(self, path: KeyPath, part: Part = "value") -> Place:
        """Return where `path` stands: its key, its value, or the header of the table that it names.

        A path that the text does not hold (a missing key) gives its nearest table.
        """
        spans = self._spans
        known: KeyPath = path
        while known and known not in spans:
            known = known[:-1]
        if known not in spans:
            return self._at(0, 0)
        span = spans[known]
        start, end = span.value if part == "value" and known == path else span.key
        return self._at(start, end)

    @cached_property
    def _spans(self) -> dict[KeyPath, Spans]:
        return _Scanner(self.text).scan()

    def _at(self, start: int, end: int) -> Place:
        begin = self.text.rfind("\n", 0, start) + 1
        stop = self.text.find("\n", start)
        line = self.text[begin : stop if stop >= 0 else len(self.text)]
        length = min(end, begin + len(line)) - start
        return Place(self.source, self.text.count("\n", 0, start) + 1, start - begin + 1, max(1, length), line)

    def _syntax_error(self, broken: tomli.TOMLDecodeError) -> Diagnostic:
        message = broken.msg[:1].lower() + broken.msg[1:]
        return Diagnostic("DP101", f"this is not TOML: {message}", self._at(broken.pos, broken.pos + 1))


_BLANK = re.compile(r"[ \t]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|(?!""").)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d [0-9:.+Zz-]+|[^\s,\]}#]+")


class _Scanner:
    """Walks a text that tomli accepted and notes the offsets of every key and value.

    INVARIANT: the text is valid TOML, so no rule of the grammar is checked again here.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spans: dict[KeyPath, Spans] = {}
        self.last_index: dict[KeyPath, int] = {}  # array of tables -> index of its open entry

    def scan(self) -> dict[KeyPath, Spans]:
        table: KeyPath = ()
        while True:
            self._skip(_TRIVIA)
            if self.at >= len(self.text):
                return self.spans
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()

    def _take(self, *patterns: re.Pattern[str]) -> str:
        for pattern in patterns:
            found = pattern.match(self.text, self.at)
            if found is not None:
                self.at = found.end()
                return found.group()
        msg = f"the scanner lost its way at offset {self.at}"
        raise AssertionError(msg)

    def _key(self) -> tuple[tuple[str, ...], tuple[int, int]]:
        parts: list[str] = []
        start = self.at
        while True:
            self._skip(_BLANK)
            part = self._take(_STRING, _BARE_KEY)
            if part[0] == '"':
                part = tomli.loads(f"key = {part}")["key"]
            elif part[0] == "'":
                part = part[1:-1]
            parts.append(part)
            end = self.at
            self._skip(_BLANK)
            if self.text[self.at : self.at + 1] != ".":
                return tuple(parts), (start, end)
            self.at += 1

    def _resolve(self, base: KeyPath, parts: tuple[str, ...]) -> KeyPath:
        """Return the path of a header's parts: an array of tables on the way means its open entry."""
        path = base
        for part in parts:
            path = (*path, part)
            if path in self.last_index:
                path = (*path, self.last_index[path])
        return path

    def _header(self) -> KeyPath:
        start = self.at
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.at += brackets
        self._skip(_BLANK)
        parts, key = self._key()
        self._skip(_BLANK)
        self.at += brackets
        span = Spans(key, (start, self.at))
        for depth in range(1, len(parts)):
            self.spans.setdefault(self._resolve((), parts[:depth]), span)
        if brackets == 1:
            path = self._resolve((), parts)
        else:
            array = (*self._resolve((), parts[:-1]), parts[-1])
            self.last_index[array] = self.last_index.get(array, -1) + 1
            self.spans.setdefault(array, span)
            path = (*array, self.last_index[array])
        self.spans[path] = span
        return path

    def _pair(self, base: KeyPath) -> None:
        self._skip(_BLANK)
        parts, key = self._key()
        self.at += 1  # the equals sign
        for depth in range(1, len(parts)):
            self.spans.setdefault(base + parts[:depth], Spans(key, key))
        self._skip(_BLANK)
        start = self.at
        path = base + parts
        self._value(path)
        self.spans[path] = Spans(key, (start, self.at))

    def _value(self, path: KeyPath) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self._take(_STRING)
        elif opening == "[":
            self._items(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._take(_SCALAR)

    def _items(self, path: KeyPath) -> None:
        self.at += 1
        self._skip(_TRIVIA)
        index = 0
        while self.text[self.at] != "]":
            start = self.at
            self._value((*path, index))
            span = (start, self.at)
            self.spans[(*path, index)] = Spans(span, span)
            index += 1
            self._separator()
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self._skip(_TRIVIA)
        while self.text[self.at] != "}":
            self._pair(path)
            self._separator()
        self.at += 1

    def _separator(self) -> None:
        self._skip(_TRIVIA)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_TRIVIA)
