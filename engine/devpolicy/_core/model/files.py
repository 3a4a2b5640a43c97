"""How the files of a model are opened: regular files only, up to a limit, with errors that name the file.

Owns the suspicion that a folder from elsewhere deserves. A pipe or a device is never waited for nor read without end,
and what the system refuses (no permission, a loop of links, a name that is too long) is an error with a place.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from devpolicy._core.errors import Diagnostic, ModelError, reason_of

_SHOWN = 200  # characters of a path in a message


def shown(path: object) -> str:
    """Return a path as messages show it: a name of thousands of characters is cut."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def unreadable(path: Path, broken: Exception) -> ModelError:
    """Return the error of a file or folder that the system does not let us read."""
    return ModelError(Diagnostic("DP109", f"cannot read `{shown(path)}`: {reason_of(broken)}"))


def _mode(path: Path) -> int:
    """Return what is at a path, 0 where nothing is. Raises `ModelError` where the system does not say."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as broken:
        raise unreadable(path, broken) from None


def is_file(path: Path) -> bool:
    """Whether a regular file is at `path`. Raises `ModelError` where the system does not say."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a folder is at `path`. Raises `ModelError` where the system does not say."""
    return stat.S_ISDIR(_mode(path))


def is_special(path: Path) -> bool:
    """Whether something is at `path` that is neither a file nor a folder. Raises `ModelError` as the others do."""
    mode = _mode(path)
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds. Raises `ModelError` where it cannot be listed."""
    try:
        return list(folder.iterdir())
    except OSError as broken:
        raise unreadable(folder, broken) from None


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read its bytes. Raises `ModelError` (DP109), also for what reading it raises."""
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
                raise ModelError(Diagnostic("DP109", f"cannot read `{shown(path)}`: it is {what}, no file"))
            yield file
    except OSError as broken:
        raise unreadable(path, broken) from None
    except ValueError as broken:
        if isinstance(broken, ModelError):
            raise
        raise unreadable(path, broken) from None  # a NUL in the name


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file. Raises `ModelError` where it is longer than `limit` (DP101)."""
    with open_file(path) as file:
        content = file.read(limit + 1) or b""
    if len(content) > limit:
        size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        raise ModelError(Diagnostic("DP101", f"`{shown(path)}` is larger than {size}, the limit of such a file"))
    return content


def read_json(path: Path, limit: int, most: int | None = None) -> dict[str, Any]:
    """Return the table in a JSON file of at most `limit` bytes. Raises `ModelError` that names the file.

    DP109, DP101, DP102; where it has more than `most` entries, which is seen before it is parsed, DP104.
    """
    content = read_bytes(path, limit)
    if most is not None and content.count(b",") > most:
        raise ModelError(Diagnostic("DP104", f"`{shown(path)}` has more than {most} entries, the limit"))
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as broken:
        raise ModelError(Diagnostic("DP101", f"`{shown(path)}` is no JSON: {broken}")) from None
    if not isinstance(table, dict):
        raise ModelError(Diagnostic("DP102", f"`{shown(path)}` does not hold an object"))
    return table
