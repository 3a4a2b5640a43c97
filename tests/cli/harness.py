"""Running the command line in tests: in this process, or as a user's shell does; and the recorded sessions.

A recorded session is a text of commands and what they print, in `tests/cases/cli/*.txt` and in the `console` blocks
of the documentation. A line `...` stands for lines that are left out:

    $ devpolicy host list
      host                    accelerators              RAM
    ...
      1x24gb                  cuda 24 GiB            64 GiB
    ...
    $ echo $?
    0

`python -m tests.cli.harness` records the texts anew: read the difference before you commit it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from devpolicy._core.cli.app import app

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests" / "cases" / "cli").glob("*.txt"))

_LEFT_OUT = "..."
_FIGURES = re.compile(r"sha256:\w+|[\d.,\s█▓▒░▚·]+")


class Result(NamedTuple):
    """What a command printed, and its exit status."""

    stdout: str
    stderr: str
    status: int


def commands(group: click.Group = app, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that name it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


def invoke(*arguments: str) -> Result:
    """Run the command line in this process, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = _exit_status(arguments)
    return Result(out.getvalue(), err.getvalue(), status)


def shell(*arguments: str, **environment: str) -> Result:
    """Run `python -m devpolicy` as a process of its own, with pipes and UTF-8."""
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "devpolicy", *arguments], capture_output=True, env=environ, timeout=300, check=False
    )
    return Result(done.stdout.decode(), done.stderr.decode(), done.returncode)


def _exit_status(arguments: tuple[str, ...]) -> int:
    try:
        app.main(list(arguments), "devpolicy")
    except SystemExit as left:
        return int(left.code or 0)
    raise AssertionError("the command line returned instead of exiting")


def together(*arguments: str) -> tuple[str, int]:
    """Run the command line in this process; both outputs as a terminal would show them, one after the other."""
    both = io.StringIO()
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        status = _exit_status(arguments)
    return both.getvalue(), status


def replayed(ctx: str, folder: Path) -> str:
    """Run the commands of a recorded session in a folder, and return the session as it is today."""
    told: list[str] = []
    status = 0
    with contextlib.chdir(folder):
        for part in re.split(r"^(?=\$ )", ctx, flags=re.MULTILINE):
            line, _, recorded = part.partition("\n")
            if line.startswith("# "):
                told.append(f"{line}\n")
            elif line == "$ echo $?":
                told.append(f"{line}\n{status}\n")
            elif line.startswith("$ "):
                command, *arguments = shlex.split(line.removeprefix("$ ").removeprefix("pip install . && "))
                assert command == "devpolicy"
                output, status = together(*arguments)
                told.append(f"{line}\n{shortened(output, like=recorded)}")
    return "".join(told)


def shortened(printed: str, *, like: str) -> str:
    """Leave out of an output the lines that a recording leaves out; none where they differ in more than figures."""
    lines, told, at = printed.splitlines(keepends=True), [], 0
    shapes = [_FIGURES.sub("#", line) for line in lines]
    runs = [run.splitlines(keepends=True) for run in re.split(rf"^{re.escape(_LEFT_OUT)}\n", like, flags=re.MULTILINE)]
    for number, run in enumerate(runs):
        wanted = [_FIGURES.sub("#", line) for line in run]
        last = len(lines) - len(run)
        starts = [at] if number == 0 else [last] if number == len(runs) - 1 else range(at, last + 1)
        start = next((one for one in starts if one >= at and shapes[one : one + len(run)] == wanted), None)
        if start is None:
            return printed
        told += [*([f"{_LEFT_OUT}\n"] if number else []), *lines[start : start + len(run)]]
        at = start + len(run)
    return "".join(told) if at == len(lines) else printed


def main() -> None:
    """Record every session anew."""
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            case.write_text(replayed(case.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
