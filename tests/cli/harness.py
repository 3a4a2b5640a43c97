"""Running the command line in tests: in this process, or as a user's shell does; and the recorded sessions.

A recorded session is a text of commands and what they print, in `tests/cases/cli/*.txt` and in the `console` blocks
of `docs/commands.md`:

    $ devpolicy explain DP501
    DP501: a rule that matches nothing
    $ echo $?
    0

`python -m tests.cli.harness` records all of them anew: read the difference before you commit it.
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
from pathlib import Path
from typing import NamedTuple

from devpolicy._core.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "commands.md"
CASES = sorted((ROOT / "tests" / "cases" / "cli").glob("*.txt"))

_CONSOLE = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^```toml\n# ([\w.-]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Result(NamedTuple):
    """What a command printed, and its exit status."""

    stdout: str
    stderr: str
    status: int


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
        for line in ctx.splitlines():
            if line.startswith("# ") and not told:
                told.append(f"{line}\n")
            elif line == "$ echo $?":
                told.append(f"{line}\n{status}\n")
            elif line.startswith("$ "):
                command, *arguments = shlex.split(line.removeprefix("$ ").removeprefix("pip install . && "))
                assert command == "devpolicy"
                output, status = together(*arguments)
                told.append(f"{line}\n{output}")
    return "".join(told)


def replayed_page(text: str, folder: Path) -> str:
    """Write the files that a page shows into a folder, run its examples there in order, return the page as it is today.

    A `toml` block that begins with `# NAME` is a file of that name.
    """
    for name, content in _FILE.findall(text):
        (folder / name).write_text(f"# {name}\n{content}", encoding="utf-8")
    return _CONSOLE.sub(lambda block: replayed(block[0], folder), text)


def main() -> None:
    """Record every session anew."""
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            case.write_text(replayed(case.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
        PAGE.write_text(replayed_page(PAGE.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
