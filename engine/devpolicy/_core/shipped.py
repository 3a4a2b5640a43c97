"""The TOML files that ship with the package: policies, hosts, models.

Owns where they are found. A wheel carries a copy inside the package; a checkout
(an editable install) reads the repository's own folder, so that an edited or a
new file is seen at once.
"""

from __future__ import annotations

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
    here = shipped(folder).joinpath(*parts)
    files = {entry.name.removesuffix(".toml"): entry for entry in here.iterdir() if entry.name.endswith(".toml")}
    return dict(sorted(files.items()))
