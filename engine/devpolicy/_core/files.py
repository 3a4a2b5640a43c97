"""Files that a stranger may have written: how they are looked at and read.

Owns the one way to such a file's content. Only a regular file is opened, so that no pipe and no device makes the reader
wait or read without end; only so many bytes are read; and what the system refuses is a finding with its place. It
knows no format.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from devpolicy._core.errors import DevPolicyError, Diagnostic, reason_of

Kind = Literal["file", "folder", "special"]

LARGEST_FILE = 4 << 20
"""A TOML file of more bytes than this is not read: nobody wrote it."""

_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# A pipe that nobody writes to is opened at once, and no terminal becomes this process's own.
_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_CHUNK = 1 << 20


def kind_of(path: str | os.PathLike[str], error: type[DevPolicyError]) -> Kind | None:
    """Return what a path names, `None` where there is nothing; also for text that cannot be a path.

    Raises `error` (DP109) where that cannot be determined, as in a folder without permission to search it.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - unlike `Path.stat` it takes any text
    except (PermissionError, TimeoutError, InterruptedError) as refused:
        raise error(_unreadable(path, refused)) from None
    except (OSError, ValueError):  # nothing there, a name that is too long, or one that holds a NUL
        return None
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "special"


def read_file(path: str | os.PathLike[str], error: type[DevPolicyError], *, most: int, hint: str = "") -> bytes:
    """Return the bytes of a regular file, at most `most` and one more, so that the reader sees that there are more.

    Raises `error` (DP109) where it is anything else, or cannot be read. `hint` is the help of that finding.
    """
    try:
        _check(os.stat(path).st_mode)  # noqa: PTH116 - opening a device may already do something
        descriptor = os.open(path, _FLAGS)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            _check(os.fstat(descriptor).st_mode)
            return _read(file.fileno(), most + 1)
    except (OSError, ValueError) as refused:
        folder = isinstance(refused, IsADirectoryError)
        raise error(_unreadable(path, refused, "name a file inside of it" if folder else hint)) from None


def list_folder(path: Path, error: type[DevPolicyError]) -> list[str]:
    """Return the names in a folder, sorted. Raises `error` (DP109) where they cannot be listed."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - only the names
    except OSError as refused:
        raise error(_unreadable(path, refused)) from None


def _check(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("is a directory")
    if not stat.S_ISREG(mode):
        what = next((name for is_kind, name in _SPECIAL if is_kind(mode)), "something else")
        raise OSError(f"it is {what}, and not a regular file")


def _read(descriptor: int, most: int) -> bytes:
    # Files of /proc say that they are empty, so the size that one states is no guide.
    chunks: list[bytes] = []
    while most > 0 and (chunk := os.read(descriptor, min(most, _CHUNK))):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


def _unreadable(path: str | os.PathLike[str], refused: Exception, hint: str = "") -> Diagnostic:
    return Diagnostic("DP109", f"cannot read `{os.fspath(path)}`: {reason_of(refused)}", help=hint)
