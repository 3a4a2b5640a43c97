"""What one run of a command was asked for: format, colours, and the screens that follow from them.

Owns the options that every command takes. `Session` is Click's context object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast, get_args

import click

from devpolicy._core.cli.screen import Color, Screen

F = TypeVar("F", bound=Callable[..., Any])

Format = Literal["human", "json", "github", "sarif", "junit"]
_PATIENCE = 1.0
"""Seconds after which progress is shown."""
_FOR_ALL: tuple[Format, ...] = ("human", "json")


@dataclass
class Session:
    """One run."""

    format: Format = "human"
    color: Color = "auto"
    debug: bool = False

    @cached_property
    def out(self) -> Screen:
        """Standard output."""
        return Screen(sys.stdout, self.color)

    @cached_property
    def err(self) -> Screen:
        """Standard error."""
        return Screen(sys.stderr, self.color)

    @property
    def json(self) -> bool:
        """Whether a machine reads the output."""
        return self.format == "json"

    def print_json(self, value: object) -> None:
        """Write a value to standard output as JSON, ASCII only, so that no encoding can spoil it."""
        self.out.write(to_json(value))

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Say on a terminal that something takes a while, and take it back when it is done."""
        if self.json or not self.err.terminal or not self.err.colored:
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show on a terminal how much is done of what takes longer than a second; the function is told of it."""
        if self.format != "human" or not self.err.terminal or not self.err.colored:
            yield lambda done, of: None
            return
        import time

        begun = time.monotonic()
        with ExitStack() as stack:
            shown: list[Callable[[int, int], None]] = []

            def tell(done: int, of: int) -> None:
                if not shown and time.monotonic() - begun > _PATIENCE:
                    shown.append(stack.enter_context(_bar(what)))
                for show in shown:
                    show(done, of)

            yield tell

    @classmethod
    def guess(cls, arguments: Sequence[str]) -> Session:
        """Return the session that the arguments ask for, before they are parsed: wrong usage is told in it too."""
        session = cls()
        for option, value in _pairs(arguments):
            if option == "--format" and value in get_args(Format):
                session.format = cast(Format, value)
            elif option == "--color" and value in ("auto", "always", "never"):
                session.color = cast(Color, value)
            elif option == "--debug":
                session.debug = True
        return session


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def to_json(value: object) -> str:
    """Return the text of a value as every command writes it."""
    return json.dumps(value, indent=2) + "\n"


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at, argument in enumerate(arguments):
        if argument == "--":
            return
        option, equals, value = argument.partition("=")
        yield option, value if equals else "".join(arguments[at + 1 : at + 2])


def common(*, formats: tuple[Format, ...] = _FOR_ALL) -> Callable[[F], F]:
    """Add the options that every command takes; they are read from the arguments by `Session.guess`."""
    options = [
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of a bug in devpolicy."),
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            expose_value=False,
            help="Colours; auto means on a terminal, unless NO_COLOR is set.",
        ),
    ]
    if formats:
        options.append(
            click.option(
                "--format",
                type=click.Choice(list(formats)),
                default="human",
                show_default=True,
                expose_value=False,
                help="For people, or for programs." if formats == _FOR_ALL else "For people, programs or CI.",
            )
        )

    def add(command: F) -> F:
        for option in options:
            command = option(command)
        return command

    return add


pass_session = click.make_pass_decorator(Session)
