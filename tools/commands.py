"""The reference of the commands, from the parser's own help.

Owns the sections of `docs/commands.md`, one for each command, and the page on which each command is used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from textwrap import fill

import click

from devpolicy._core.cli.app import app

USED_ON = {
    "init": "getting-started.md",
    "check": "change-a-policy.md#check",
    "show": "find-out-why.md#values-and-where-they-come-from",
    "plan": "plan-a-model.md",
    "fit": "what-fits.md",
    "report": "what-fits.md#a-report-of-many-models-and-hosts",
    "dry-run": "dry-run.md",
    "resolve": "plan-a-model.md#only-the-device",
    "why": "find-out-why.md#why-a-module-is-where-it-is",
    "run": "plan-a-model.md#start-a-program-on-the-planned-devices",
    "test": "testing-policies.md",
    "diff": "change-a-policy.md#compare-two-policies",
    "verify": "testing-policies.md#every-host-of-a-family",
    "host": "hosts-and-models.md#hosts",
    "fleet": "fleets.md",
    "model": "hosts-and-models.md#models",
    "playground": "getting-started.md#the-playground",
    "targets": "targets.md",
    "doctor": "find-out-why.md#what-each-library-sees",
    "simulator": "dry-run.md#build-the-simulator",
    "schema": "ci.md#in-the-editor",
    "explain": "find-out-why.md#what-an-error-means",
}
"""The page that shows each command in use."""

_FOR_ALL = {"color", "debug", "help"}
"""Options that every command has: the page explains them once."""


def reference() -> str:
    """Return the sections of all commands."""
    return "\n\n".join(_section(name) for name in app.list_commands(click.Context(app)))


def _section(name: str) -> str:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    title = USED_ON[name].partition(".")[0].replace("-", " ")
    parts = [f"### {name}", *_text(command), f"In use: [{title}]({USED_ON[name]})."]
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            parts += [f"#### {name} {below}", *_text(one), *_options(one)]
    return "\n\n".join([*parts, *_options(command)])


def _text(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a command's help, and its examples as blocks."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b\n"):
            yield fill(_prose(paragraph), 120, break_long_words=False, break_on_hyphens=False)
            continue
        title, *lines = paragraph.removeprefix("\b\n").splitlines()
        if title != "Examples:":
            yield title
        yield "\n".join(["```sh", *(line.removeprefix("  ") for line in lines), "```"])


def _options(command: click.Command) -> Iterator[str]:
    """Yield the table of a command's own options."""
    options = [one for one in command.params if isinstance(one, click.Option) and one.name not in _FOR_ALL]
    if options:
        rows = (f"| {_names(one)} | {_cell(_prose(one.help or ''))} |" for one in options if not one.hidden)
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])


def _names(option: click.Option) -> str:
    context = click.Context(click.Command("devpolicy"))
    takes = "" if option.is_flag else f" {option.make_metavar(context)}"
    return _cell(", ".join(f"`{name}{takes}`" for name in [*option.opts, *option.secondary_opts]))


def _prose(text: str) -> str:
    """Mark what a terminal shows without marks: options, variables and addresses."""
    word = r"--?[a-z][\w-]*|[A-Z]+_[A-Z_]+|hf://[\w/]+"
    return re.sub(rf"(?<![\w`-])({word})(?![\w`])", r"`\1`", " ".join(text.split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
