"""Writing a file, whole or not at all.

Owns `--output`: what was there before stays until all of the new text is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from devpolicy._core.errors import DevPolicyError, reason_of


def write_whole(path: str, text: str) -> None:
    """Write a file, whole or not at all. Raises `DevPolicyError` where that fails; then an older file is as it was."""
    try:
        target = Path(path).resolve()  # what a link points at is replaced, and not the link
        if target.exists() and not target.is_file():
            # A pipe or a device is written to: it must not be replaced by a file.
            target.write_text(text, encoding="utf-8", newline="\n")
        else:
            _replace(target, text)
    except (OSError, RuntimeError) as broken:  # RuntimeError: links in a circle, before Python 3.13
        raise DevPolicyError(f"cannot write `{path}`: {reason_of(broken)}") from None


def _replace(target: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _as_a_new_file(temporary, target)
        Path(temporary).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def _as_a_new_file(temporary: str, target: Path) -> None:
    """Give a temporary file, which only its owner may read, the permissions of the file that it replaces."""
    try:
        mode = target.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    Path(temporary).chmod(mode)
