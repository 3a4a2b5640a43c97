"""The page of versions says what the package declares, and what the tests run with."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
_ROW = re.compile(r"^\| (?P<name>[\w-]+) \| (?P<oldest>[\d.]+) \| (?P<newest>[\d.]+) \|", re.MULTILINE)
ROWS = {row["name"]: row for row in _ROW.finditer(PAGE.read_text(encoding="utf-8"))} if PAGE.exists() else {}


def declared() -> dict[str, str]:
    """The floor of each dependency, the extras' included, but for the simulator's one torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        text for extra, texts in project["optional-dependencies"].items() if extra != "simulator" for text in texts
    ]
    found = [Requirement(text) for text in (*project["dependencies"], *extras)]
    return {one.name: next(part.version for part in one.specifier if part.operator == ">=") for one in found}


def test_the_oldest_versions_are_those_that_are_declared() -> None:
    assert {name: row["oldest"] for name, row in ROWS.items()} == declared()


def test_the_oldest_environment_pins_the_oldest_versions() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pins = [Requirement(text) for text in groups["oldest"]]
    pinned = {one.name: next(iter(one.specifier)).version for one in pins if one.specifier}
    assert pinned.items() <= {name: row["oldest"] for name, row in ROWS.items()}.items()


@pytest.mark.skipif(os.environ.get("TOX_ENV_NAME") != "test", reason="only `test` installs what an index gives today")
@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"ray"}))  # which `ray` installs
def test_what_is_installed_is_no_older_than_the_oldest(name: str) -> None:
    try:
        installed = Version(version(name))
    except PackageNotFoundError:
        pytest.fail(f"`test` installs no {name}")
    assert installed >= Version(ROWS[name]["oldest"])
    if installed.release[:2] > Version(ROWS[name]["newest"]).release[:2]:
        print(f"{name} {installed} is newer than what docs/versions.md says was tried")
