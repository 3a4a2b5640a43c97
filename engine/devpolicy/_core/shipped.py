"""The TOML files that ship with the package: policies, hosts, models.

Owns where they are found. A wheel carries a copy inside the package; a checkout
(an editable install) reads the repository's own folder, so that an edited file
is seen at once, and a new one by the next process.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def shipped(folder: str) -> Traversable:
    """Return a top-level data folder of the project, `policy` or `fixtures`."""
    packaged = resources.files("devpolicy").joinpath("_data", folder)
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[3] / folder
    if checkout.is_dir():
        return checkout
    msg = f"devpolicy was installed without its {folder!r} files"
    raise FileNotFoundError(msg)


def shipped_files(folder: str, *parts: str) -> dict[str, Traversable]:
    """Return the TOML files of one shipped folder as `{stem: file}`, sorted by name."""
    return dict(_listed(folder, *parts))


@cache  # each name that a file of thousands gives may be looked for here
def _listed(folder: str, *parts: str) -> dict[str, Traversable]:
    here = shipped(folder).joinpath(*parts)
    files = {entry.name.removesuffix(".toml"): entry for entry in here.iterdir() if entry.name.endswith(".toml")}
    return dict(sorted(files.items()))
