"""The places of keys and values in a TOML text that tomli has accepted.

Owns the index from a key path to character offsets. tomli gives no positions for values, so a small scanner walks
the text once more. It checks nothing, reports nothing and does not interpret keys.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import tomli

KeyPath = tuple[str | int, ...]


class Spans(NamedTuple):
    """Character offsets of a key and of its value, or for a table of its header."""

    key: tuple[int, int]
    value: tuple[int, int]


def index_spans(text: str) -> dict[KeyPath, Spans]:
    """Return the spans of every key path of a valid TOML text without CRLF; tables on the way included. Linear time."""
    return _Scanner(text).scan()


_BLANK = re.compile(r"[ \t]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    # Possessive: what is tried twice is remembered for each character of a long text.
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]++|\\.)*+"' r"|'[^'\n]*'",
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
        while True:  # ends: a header and a pair both take some of the text
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
        while True:  # ends: each part takes some of the text
            self._skip(_BLANK)
            part = self._take(_STRING, BARE_KEY)
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
