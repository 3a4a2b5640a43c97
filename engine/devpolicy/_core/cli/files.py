"""Writing a file, whole or not at all.

Owns `--output`: what was there before stays until all of the new text is on the disk, nothing that the command reads
is overwritten, and what is no file (a pipe, a device, a descriptor of the shell) is written to.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from devpolicy._core.cli.signals import undone
from devpolicy._core.errors import DevPolicyError, Diagnostic, reason_of
from devpolicy._core.text import visible

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", re.ASCII)
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def write_whole(path: str, content: str | bytes, *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Write a file, whole or not at all. `inputs` are files and folders that the command reads.

    Raises `DevPolicyError` where it would overwrite one of them, and where it cannot be written; then an older file is
    as it was.
    """
    try:
        _refuse_inputs(path, inputs)
        _write(path, content if isinstance(content, bytes) else content.encode())
    except BrokenPipeError:
        pass  # its reader went away, as `| head` does
    except (OSError, ValueError, RuntimeError) as broken:
        # ValueError: a NUL in the name; RuntimeError: links in a circle, before Python 3.13
        raise DevPolicyError(f"cannot write `{path}`: {reason_of(broken)}") from None


def refuse_to_replace(path: str) -> None:
    """Raise `DevPolicyError` where a path is a file already."""
    try:
        there = Path(path).is_file()
    except (OSError, ValueError):
        return  # writing says what is wrong with it
    if there and _descriptor(path) is None:
        message = f"`{visible(path)}` is there already, and is not replaced"
        raise DevPolicyError(Diagnostic("", message, help="name another file, or add `--force`"))


def _refuse_inputs(path: str, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise `DevPolicyError` where a path is one of the files, or a file in one of the folders."""
    target = Path(path)
    if not target.is_file():
        return
    for one in inputs:
        given = Path(one)
        try:
            taken = given.samefile(target.resolve().parent if given.is_dir() else target)
        except (OSError, ValueError):
            continue  # the name of something that ships, say
        if taken:
            message = f"`{visible(path)}` is read by this command: it is not overwritten"
            raise DevPolicyError(Diagnostic("", message, help="name another file"))


def _write(path: str, content: bytes) -> None:
    descriptor = _descriptor(path)
    target = Path(path)
    if descriptor is not None:
        # What the shell has opened, it has opened for appending or not: opened again it would be another file.
        with open(os.dup(descriptor), "wb") as stream:  # noqa: PTH123 - it has no path
            stream.write(content)
    elif target.exists() and not target.is_file():
        # A pipe or a device must not be replaced by a file.
        target.write_bytes(content)
    else:
        _replace(target.resolve(), content)  # what a link points at is replaced, and not the link


def _descriptor(path: str) -> int | None:
    """Return which of this process's open files a path names, `None` where it names none."""
    found = _DESCRIPTOR.fullmatch(path)
    return int(found[1]) if found else _STREAMS.get(path)


def _replace(target: Path, content: bytes) -> None:
    # The name is known before there is such a file, so that a signal leaves none behind, whenever it comes. It is
    # short, because the target's own may be as long as a name can be.
    temporary = target.with_name(f".devpolicy-{secrets.token_hex(8)}")
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    with undone(temporary.unlink):
        try:
            with temporary.open("xb") as file:
                if mode is not None:
                    temporary.chmod(mode)  # before anything is in it that others may not read
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
