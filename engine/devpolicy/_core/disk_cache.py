"""A cache on the disk: JSON files in the user's cache folder, few and small, that may be lost at any time.

Owns the folder, its bounds, and whether a file in it can be trusted. It does not interpret the files: whoever reads one
checks its content, and ignores it where anything is wrong.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devpolicy._core.errors import DevPolicyError
from devpolicy._core.files import read_file

VARIABLE = "DEVPOLICY_MODEL_CACHE"
"""Names another folder, or is `off`."""
MOST_FILES = 256
LARGEST_KEPT = 64 << 20
"""Bytes of all files together."""
LARGEST_ENTRY = 4 << 20
_NAME = re.compile(r"[0-9a-f]{64}\.json|\.part-\w{1,16}")
"""The names of our files: nothing else in the folder is read, counted or deleted."""


@dataclass(frozen=True, slots=True)
class DiskCache:
    """One folder of files, each under the digest of the question that it answers."""

    folder: Path | None
    """`None` where nothing is kept."""
    why: str = ""
    """Why nothing is kept."""

    def read(self, digest: str) -> Any:
        """Return the content of a file, `None` where there is none that can be trusted."""
        if self.folder is None or self.problem():
            return None
        path = self.folder / f"{digest}.json"
        try:
            if not _is_ours(path.lstat(), stat.S_ISREG):
                return None
            content = read_file(path, DevPolicyError, most=LARGEST_ENTRY)
            if len(content) > LARGEST_ENTRY:
                return None
            found = json.loads(content)
            os.utime(path)  # what is used last is kept longest
        except (OSError, ValueError, RecursionError, DevPolicyError):
            return None
        return found

    def write(self, digest: str, content: Any) -> None:
        """Keep what can be written as JSON, whole or not at all, and let go what was not used for longest."""
        if self.folder is None:
            return
        with suppress(OSError, ValueError, TypeError, RecursionError):
            text = json.dumps(content).encode()
            if len(text) > LARGEST_ENTRY:
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.problem():
                return
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".part-")
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            Path(temporary).replace(self.folder / f"{digest}.json")
            self._let_go()

    def problem(self) -> str:
        """Return why the folder is not used although it is there; empty where it is, or is not there yet."""
        if self.folder is None:
            return self.why
        try:
            trusted = _is_ours(self.folder.stat(), stat.S_ISDIR)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError):
            return "it cannot be read"
        return "" if trusted else "others may write there, or it is no folder of this user"

    def sizes(self) -> list[int]:
        """Return the bytes of each file."""
        return [size for _, size, _ in self._files()]

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file was used last, its bytes and its path."""
        with suppress(OSError, ValueError):
            for entry in os.scandir(self.folder) if self.folder is not None else ():
                if _NAME.fullmatch(entry.name):
                    seen = entry.stat(follow_symlinks=False)
                    yield seen.st_mtime, seen.st_size, Path(entry.path)

    def _let_go(self) -> None:
        files = sorted(self._files(), reverse=True)
        total = 0
        for place, (_, size, path) in enumerate(files):
            total += size
            if place >= MOST_FILES or total > LARGEST_KEPT:
                path.unlink(missing_ok=True)


def model_cache() -> DiskCache:
    """Return where models are kept: the folder of `DEVPOLICY_MODEL_CACHE`, else one in the user's cache."""
    named = os.environ.get(VARIABLE, "")
    if named == "off":
        return DiskCache(None, f"`{VARIABLE}` is `off`")
    if named:
        path = Path(named)
        return DiskCache(path) if path.is_absolute() else DiskCache(None, f"`{VARIABLE}` is no absolute path")
    try:
        return DiskCache(_platform_folder() / "devpolicy" / "models")
    except RuntimeError:  # a user without a home
        return DiskCache(None, "this user has no home folder")


def _platform_folder() -> Path:
    """Return the folder where this platform wants caches."""
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if Path(named).is_absolute():
        return Path(named)
    return Path.home() / {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")


def _is_ours(seen: os.stat_result, is_kind: Any) -> bool:
    """Whether a file or folder is of its kind, and nobody else can have written it."""
    if not is_kind(seen.st_mode):
        return False
    user = getattr(os, "geteuid", None)  # Windows says it by other means, in the profile of each user
    return user is None or (seen.st_uid == user() and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
