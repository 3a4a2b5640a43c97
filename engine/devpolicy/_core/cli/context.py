"""The options of one run of a command, and the outputs that follow from them.

Owns the options that every command takes. `CliContext` is the object of Click's context.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar, cast, get_args

import click

from devpolicy._core.cli.output import Color, Output
from devpolicy._core.cli.signals import undone
from devpolicy._core.text import json_text, visible
from devpolicy._core.threads import started

F = TypeVar("F", bound=Callable[..., Any])

Format = Literal["human", "json", "github", "sarif", "junit", "svg", "png", "plain"]
PATIENCE = 1.0
"""Seconds after which progress is shown."""
_LOG_EVERY = 30.0
"""Seconds between lines of progress without a terminal: a CI log keeps each of them."""
_FOR_ALL: tuple[Format, ...] = ("human", "plain", "json")


@dataclass
class CliContext:
    """Format, colours and outputs of one run."""

    format: Format = "human"
    color: Color = "auto"
    debug: bool = False

    @cached_property
    def out(self) -> Output:
        """Standard output."""
        return Output(sys.stdout, self.color, spoken=self.format == "plain")

    @cached_property
    def err(self) -> Output:
        """Standard error."""
        # A command does not fail because its messages cannot be written.
        return Output(sys.stderr, self.color, needed=False, spoken=self.format == "plain")

    @property
    def json(self) -> bool:
        """Whether a machine reads the output."""
        return self.format == "json"

    @property
    def for_people(self) -> bool:
        """Whether a person reads or hears the output."""
        return self.format in ("human", "plain")

    def print_json(self, value: object) -> None:
        """Write a value to standard output as JSON."""
        self.out.write(json_text(value))

    @contextmanager
    def working(self, what: str, *, patience: float = 0.0) -> Iterator[None]:
        """Say on a terminal that something takes a while, after `patience` seconds, and take it back at the end."""
        if self.json or not self.err.terminal or not self.err.colored:
            yield
            return
        from rich.console import Console
        from rich.text import Text

        status = Console(stderr=True).status(Text(visible(what)))
        late = threading.Timer(patience, status.start)
        late.daemon = True
        if patience:
            started(late)  # without threads nothing is shown
        else:
            status.start()
        with undone(_show_cursor):
            try:
                yield
            finally:
                late.cancel()
                if late.is_alive():
                    late.join()  # it may have begun just now
                status.stop()

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of work that takes longer than a second; call the function with what is done.

        On a terminal it is a bar, which goes when all is done; elsewhere a line each half minute.
        """
        if self.err.terminal and not self.err.colored and self.format == "human":
            yield lambda done, of: None
            return
        on_terminal = self.format == "human" and self.err.terminal
        due = time.monotonic() + (PATIENCE if on_terminal else _LOG_EVERY)
        with ExitStack() as stack:
            shown: list[Callable[[int, int], None]] = []

            def tell(done: int, of: int) -> None:
                nonlocal due
                if not shown and time.monotonic() > due:
                    if on_terminal:
                        shown.append(stack.enter_context(_bar(what)))
                    else:
                        due = time.monotonic() + _LOG_EVERY
                        self.err.print(f"{what}: {done:,} of {of:,}")
                for show in shown:
                    show(done, of)

            yield tell

    @classmethod
    def guess(cls, arguments: Sequence[str]) -> CliContext:
        """Return the context that the arguments describe, before they are parsed: usage errors need it too."""
        ctx = cls()
        for option, value in _pairs(arguments):
            if option == "--format" and value in get_args(Format):
                ctx.format = cast(Format, value)
            elif option == "--color" and value in ("auto", "always", "never"):
                ctx.color = cast(Color, value)
            elif option == "--debug":
                ctx.debug = True
        return ctx


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with undone(_show_cursor), Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show_cursor() -> None:
    """Show again what Rich hides while something moves."""
    os.write(sys.stderr.fileno(), b"\x1b[?25h\n")


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for at, argument in enumerate(arguments):
        if argument == "--":
            return
        option, equals, value = argument.partition("=")
        yield option, value if equals else "".join(arguments[at + 1 : at + 2])


def common(*, formats: tuple[Format, ...] = _FOR_ALL) -> Callable[[F], F]:
    """Add the options that every command takes; they are read from the arguments by `CliContext.guess`."""
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
                help="For people, for screen readers, or for programs."
                if formats == _FOR_ALL
                else "For people (plain: for screen readers), programs or CI.",
            )
        )

    def add(command: F) -> F:
        for option in options:
            command = option(command)

        @wraps(command)
        def run(*args: Any, **given: Any) -> Any:
            from devpolicy._core.cli.next_step import print_next_step

            status = command(*args, **given)
            print_next_step(click.get_current_context(), status or 0)
            return status

        return cast(F, run)

    return add


pass_context = click.make_pass_decorator(CliContext)
