"""Where text goes: colours, characters, widths and pipes.

Owns what differs between a terminal, a pipe and a file, so that a command composes the same lines for all of them:
a line is text, or spans of text with a style. It knows no policy and no plan. What people are shown goes through
`shown`, so that nothing in a name that was read from a file can steer the terminal or the CI that shows it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TextIO

from devpolicy._core.cli.table import UNBOUNDED
from devpolicy._core.errors import DevPolicyError, reason_of
from devpolicy._core.text import visible, visible_line

if TYPE_CHECKING:
    from rich.console import Console

Color = Literal["auto", "always", "never"]
Span = tuple[str, str]
"""Text and its style, a name in `STYLES`, empty for none."""
Line = str | Sequence[Span]

STYLES = {
    "": "",
    "error": "bold red",
    "warning": "bold yellow",
    "help": "cyan",
    "place": "blue",
    "strong": "bold",
    "dim": "dim",
    "good": "green",
    "device": "bold cyan",
    "weights": "green",
    "kv_cache": "blue",
    "activations": "magenta",
    "streaming": "yellow",
    "loading": "yellow",
    "others": "red",
    "headroom": "dim",
    "free": "",
}
WIDTH = 80
"""Columns if the terminal's are not known. Every view must be readable in them."""
_NARROWEST, _WIDEST = 40, 120


def plain(line: Line) -> str:
    """Return a line's text without its styles."""
    return line if isinstance(line, str) else "".join(text for text, _ in line)


def shown(line: Line) -> Line:
    """Return a line as a person may see it: a line break or a control character in it is written as an escape."""
    if isinstance(line, str):
        return visible_line(line)
    spans = [(visible(text), style) for text, style in line]
    whole = plain(spans)
    # Cut again only where a CI log would take the line for a command: then its styles go.
    return spans if visible_line(whole) == whole else visible_line(whole)


def as_lines(lines: str | Iterable[Line]) -> list[Line]:
    """Return lines as `shown` makes them. One string may hold several lines."""
    return [shown(line) for line in (lines.split("\n") if isinstance(lines, str) else lines)]


class Output:
    """One output stream. A reader that went away (`| head`) is no error: the rest is dropped.

    So is all of it where the stream was closed from the start, or, unless `needed`, cannot be written to. `spoken` is
    for screen readers.
    """

    def __init__(
        self, stream: TextIO | None, color: Color = "auto", *, needed: bool = True, spoken: bool = False
    ) -> None:
        self._stream = stream
        self._color = color
        self._needed = needed
        self._spoken = spoken
        self._closed = stream is None

    @cached_property
    def terminal(self) -> bool:
        """Whether a person looks at it now."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    @property
    def dropped(self) -> bool:
        """Whether what is written goes nowhere: the stream is closed, or its disk is full."""
        return self._closed

    @cached_property
    def colored(self) -> bool:
        """Whether styles are shown: `--color` decides, else a terminal that can, unless `NO_COLOR` is set."""
        if self._spoken or self._color == "never" or find_spec("rich") is None:
            return False
        if self._color == "always":
            return True
        return self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @cached_property
    def width(self) -> int:
        """Columns to compose for, 40 to 120: the terminal's; in a pipe or a file those of `COLUMNS`, else 80.

        `UNBOUNDED` for people who hear the output.
        """
        if self._spoken:
            return UNBOUNDED
        if self.terminal:
            columns = shutil.get_terminal_size((WIDTH, 24)).columns
        else:
            wanted = os.environ.get("COLUMNS", "")
            columns = int(wanted) if wanted.isascii() and wanted.isdecimal() and 0 < len(wanted) < 7 else 0
        return max(_NARROWEST, min(_WIDEST, columns or WIDTH))

    def can_show(self, text: str) -> bool:
        """Whether the stream's encoding has these characters."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True

    @property
    def _encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def print(self, lines: str | Iterable[Line] = "") -> None:
        """Write lines of text or of styled spans, each with its end. One string may hold several lines."""
        given = as_lines(lines)
        self.write(self._painted(given) if self.colored else "".join(f"{plain(line)}\n" for line in given))

    def write(self, text: str) -> None:
        """Write text for programs as it is; characters that the stream cannot hold are escaped.

        Raises `DevPolicyError`.
        """
        if self._stream is None or self._closed:
            return
        try:
            self._stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
            self._stream.flush()
        except BrokenPipeError:
            self.drop()
        except (OSError, ValueError) as broken:
            self.drop()
            if self._needed:
                raise DevPolicyError(f"cannot write the output: {reason_of(broken)}") from None

    def drop(self) -> None:
        """Discard what is still buffered: Python would complain when it flushes at exit."""
        self._closed = True
        if self._stream is None:
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass  # a stream of a test, which has no file behind it

    def _painted(self, lines: Iterable[Line]) -> str:
        from rich.text import Text

        with self._console.capture() as capture:
            for line in lines:
                spans = [(line, "")] if isinstance(line, str) else line
                text = Text.assemble(*((part, STYLES[style]) for part, style in spans))
                self._console.print(text, soft_wrap=True)
        return capture.get()

    @cached_property
    def _console(self) -> Console:
        import io

        from rich.console import Console, detect_legacy_windows

        if self.terminal and sys.platform == "win32" and detect_legacy_windows():
            return Console(file=io.StringIO(), color_system=None, highlight=False)
        console = Console(file=io.StringIO(), force_terminal=True, no_color=False, highlight=False)
        if console.color_system is None:
            # `--color always` where the terminal says nothing of itself.
            console = Console(
                file=io.StringIO(), force_terminal=True, no_color=False, highlight=False, color_system="standard"
            )
        return console
