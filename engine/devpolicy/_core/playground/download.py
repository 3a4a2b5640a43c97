"""The browser's Python from npm, once, where someone asks for it.

Owns the address, the digest that what comes must have, and where it is kept.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from devpolicy._core.errors import DevPolicyError, Diagnostic, reason_of
from devpolicy._core.playground.site import PYODIDE, RUNTIME

ADDRESS = f"https://registry.npmjs.org/pyodide/-/pyodide-{PYODIDE}.tgz"
_SHA512 = "0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A=="
_MOST = 64 << 20
_CHUNK = 1 << 18


def kept() -> Path:
    """Return the folder where the runtime is kept, beside what else devpolicy keeps."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "devpolicy" / f"pyodide-{PYODIDE}"


def download(progress: Callable[[int, int], None], address: str = ADDRESS) -> Path:
    """Fetch the runtime, check it and return its folder. Raises `DevPolicyError`."""
    try:
        with urlopen(address, timeout=60) as answer:  # an address of ours
            size = min(int(answer.headers.get("Content-Length") or 0), _MOST)
            packed = bytearray()
            while len(packed) <= _MOST and (chunk := answer.read(_CHUNK)):
                packed += chunk
                progress(len(packed), max(size, len(packed)))
    except (OSError, ValueError) as broken:
        hint = "fetch it by hand with `npm install pyodide`, and name its folder with `--pyodide`"
        raise DevPolicyError(Diagnostic("", f"cannot fetch {address}: {reason_of(broken)}", help=hint)) from None
    if base64.b64encode(hashlib.sha512(packed).digest()).decode() != _SHA512:
        raise DevPolicyError(f"what {address} sent is not Pyodide {PYODIDE}: its digest is another")
    folder = kept()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as file:
            for name in RUNTIME:
                member = file.extractfile(f"package/{name}")
                if member is not None:
                    (folder / name).write_bytes(member.read())
    except (OSError, KeyError, tarfile.TarError) as broken:
        raise DevPolicyError(f"cannot keep Pyodide in `{folder}`: {reason_of(broken)}") from None
    return folder
