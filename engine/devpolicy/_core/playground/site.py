"""The files of the playground.

Owns the page and the archive of packages. The archive is made of what is installed, so that the page runs exactly what
the command runs. The browser's Python itself (Pyodide) is not ours: its folder is named, and copied or served as it is.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from html import escape
from importlib import import_module
from importlib.resources.abc import Traversable
from pathlib import Path

from devpolicy import __version__
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.files import kind_of
from devpolicy._core.shipped import shipped
from devpolicy._core.text import visible
from devpolicy._core.views.colors import DARK, LIGHT, variables
from devpolicy._core.views.picture import VARIABLES, style

PYODIDE = "314.0.7"
"""The version that is tested."""
RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
"""Its files that a page loads."""
_ASSETS = Path(__file__).parent / "assets"
_PACKAGES = ("devpolicy", "click", "tomli", "packaging")
_STAMP = (1980, 1, 1, 0, 0, 0)
_POLICY = """\
prefer = ["cuda", "mps", "cpu"]
overflow = "cpu"

[offload]
lm_head = "disk"

[workload]
context = 8192
"""


def page() -> str:
    """Return the page. Its policy allows what comes from where it comes from, and the runtime's WebAssembly."""
    allowed = (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
        "img-src data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    text = (_ASSETS / "playground.html").read_text("utf-8")
    return text.replace("{allowed}", allowed).replace("{policy}", escape(_POLICY)).replace("{version}", __version__)


def colors() -> str:
    """Return the colours of the page and its pictures."""
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{--error:#ff8a80;{variables(DARK)}}}}}"
    return f":root{{color-scheme:light dark;--error:#b3261e;{variables(LIGHT)}}}{dark}{style(VARIABLES)}\n"


def archive() -> bytes:
    """Return the packages that the core needs, as they are installed here, as a ZIP file that is always the same."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, content in sorted(_packages()):
            file.writestr(zipfile.ZipInfo(name, _STAMP), content, zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def _packages() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        folder = Path(str(import_module(package).__file__)).parent
        for path in folder.rglob("*.py"):
            yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()
    for data in ("policy", "fixtures"):
        yield from _data(f"devpolicy/_data/{data}", shipped(data))


def _data(name: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _data(f"{name}/{entry.name}", entry)
        elif entry.name.endswith(".toml"):
            yield f"{name}/{entry.name}", entry.read_bytes()


def runtime(folder: Path) -> dict[str, Path]:
    """Return the files of the browser's Python in a folder. Raises `DevPolicyError` where they are not all there."""
    found = {name: folder / name for name in RUNTIME}
    missing = [name for name, path in found.items() if kind_of(path, DevPolicyError) != "file"]
    if missing:
        message = f"`{visible(str(folder))}` holds no Pyodide: it has no `{missing[0]}`"
        hint = "name the folder that `npm install pyodide` makes"
        raise DevPolicyError(Diagnostic("", message, help=hint))
    return found


def files(pyodide: Path) -> dict[str, bytes]:
    """Return the whole site: each file by its path."""
    own = {name: (_ASSETS / name).read_bytes() for name in ("playground.js", "playground.css", "worker.js")}
    made = {"index.html": page().encode(), "colors.css": colors().encode(), "packages.zip": archive()}
    return {**made, **own, **{f"pyodide/{name}": path.read_bytes() for name, path in runtime(pyodide).items()}}
