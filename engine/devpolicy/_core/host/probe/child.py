"""Asking torch in a child process.

Owns starting it, its timeout, and the reading of what it printed. This process keeps no context,
imports no torch, and survives a driver that hangs or crashes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any

from devpolicy._core.host.probe.answer import Answer, accelerator, clean, silent
from devpolicy._core.host.probe.ask import MARK

if TYPE_CHECKING:
    from collections.abc import Sequence


def ask_child(types: Sequence[str], timeout: float, command: Sequence[str] | None = None) -> dict[str, Answer]:
    """Return torch's answer for each type of accelerator. Costs the import of torch, seconds, in a child.

    `command` is by default this interpreter with the questions of `devpolicy._core.host.probe.ask`.
    """
    command = _questions() if command is None else command
    if not command:
        return dict.fromkeys(types, Answer()) | _faults(
            types, "this program has no Python interpreter to ask torch with"
        )
    try:
        output, errors, status = run([*command, *types], timeout)
    except subprocess.TimeoutExpired:
        return _faults(types, silent(timeout))
    except OSError as broken:
        return _faults(types, f"cannot start a process to ask torch: {clean(broken)}")
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        told = json.loads(lines[-1].removeprefix(MARK))
        return {type_: read_answer(type_, told[type_]) for type_ in types}
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        last = clean((errors.strip().splitlines() or [""])[-1])
        return _faults(types, last or f"the process that asks torch ended with status {status}")


def read_answer(type_: str, told: dict[str, Any]) -> Answer:
    """Return what `ask.answers` said of one type as an answer."""
    if "fault" in told:
        return Answer(faults=((type_, clean(told["fault"]) or "no reason was given"),))
    return Answer(tuple(accelerator(type_, facts) for facts in told["devices"]))


def _faults(types: Sequence[str], why: str) -> dict[str, Answer]:
    return {type_: Answer(faults=((type_, why),)) for type_ in types}


def _questions() -> list[str]:
    # In a frozen application `sys.executable` is the application: it would be started once more.
    if not sys.executable or getattr(sys, "frozen", False):
        return []
    questions = resources.files("devpolicy._core.host.probe").joinpath("ask.py").read_text(encoding="utf-8")
    # -P: a folder with a torch.py or json.py of its own is not where the child looks first.
    return [sys.executable, "-P", "-c", questions]


def run(command: Sequence[str], timeout: float) -> tuple[str, str, int]:
    """Run a command and return what it printed, what it complained of, and its status. Raises as `subprocess` does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            # A process that hangs inside a driver does not die of a signal: it is not waited for.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            raise
    return output.decode(errors="replace"), errors.decode(errors="replace"), process.returncode
