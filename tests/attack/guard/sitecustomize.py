"""Keeps a process and its children from changing anything outside of a folder.

Python imports this as it starts, where this folder is on PYTHONPATH. ATTACK_FOLDER is where files may be changed,
ATTACK_NOTED the file that tells what was tried elsewhere. `judge` has the same rule for what runs in its own process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

_ONE = {"os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.utime", "shutil.rmtree"}
_TWO = {"os.rename", "os.link", "shutil.move"}  # both ends are changed
_SECOND = {"os.symlink", "shutil.copyfile", "shutil.copymode", "shutil.copystat", "shutil.copytree"}


def changed(event: str, args: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the paths that an audit event changes."""
    if event == "open":
        path, mode, flags = args
        writes = bool(set(mode or "") & set("wax+"))
        if writes or (flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)):
            yield path
    elif event in _ONE:
        yield args[0]
    elif event in _TWO:
        yield from args[:2]
    elif event in _SECOND:
        yield args[1]


def is_outside(path: Any, folder: str) -> bool:
    """Whether a path, or where its links lead, is outside of a folder. What is open already is not."""
    if isinstance(path, int):
        return False
    whole = os.path.realpath(os.fsdecode(path))
    return whole != os.devnull and whole != folder and not whole.startswith(folder + os.sep)


def _keep(folder: str, noted: str) -> None:
    descriptor = os.open(noted, os.O_WRONLY | os.O_APPEND)
    os.set_inheritable(descriptor, False)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        for path in changed(event, args):
            if is_outside(path, folder):
                os.write(descriptor, f"{event} {path!a}\n".encode())
                raise PermissionError(f"an attack: {event} {path!a}")

    sys.addaudithook(watch)
    access = os.access

    def may(path: Any, mode: int, **how: Any) -> bool:
        return not (mode & os.W_OK and is_outside(path, folder)) and access(path, mode, **how)

    os.access = may


if "ATTACK_FOLDER" in os.environ:
    _keep(os.environ["ATTACK_FOLDER"], os.environ["ATTACK_NOTED"])
