"""What a file of `suites/` says: where tests come from, on which hosts they run, and what they are expected to give."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Counts = list[int]
"""How many tests passed, failed and were skipped."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite. What is left out says so in `left_out`, by file, with a reason."""

    path: Path
    package: str
    what: str
    hosts: list[str]
    files: list[str]
    only: dict[str, list[str]] = field(default_factory=dict)
    """Files that run on some of the hosts."""
    options: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    """Files that the source package lacks: their text, or `@` and the name of a file of this folder."""
    deviation: list[dict[str, str]] = field(default_factory=list)
    """`test`, a glob of names, `reason`, and `host` where it is of one."""
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)
    """By file and host."""
    partly: bool = False
    """Whether only some of its hosts are asked for, which no file says."""

    @property
    def name(self) -> str:
        return self.path.stem

    def hosts_of(self, file: str) -> list[str]:
        """Return the hosts that a file of tests runs on."""
        return self.only.get(file, self.hosts)


def read_suites() -> list[Suite]:
    """Return all suites, by name."""
    paths = sorted((HERE / "suites").glob("*.toml"))
    tables: list[dict[str, Any]] = [tomllib.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [
        Suite(path=path, **{key.replace("-", "_"): value for key, value in table.items()})
        for path, table in zip(paths, tables, strict=True)
    ]


def unpack(suite: Suite, folder: Path) -> Path:
    """Download the source package in the version that is installed, and return the folder of its files."""
    named = f"{suite.package}=={version(suite.package)}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, named], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    for name, text in suite.added.items():
        target = unpacked / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((HERE / text[1:]).read_text("utf-8") if text.startswith("@") else text, "utf-8")
    return unpacked


def write_counts(suite: Suite, found: dict[str, dict[str, Counts]]) -> None:
    """Replace the table of counts, which ends the file. Files and hosts that did not run keep their numbers."""
    head = suite.path.read_text(encoding="utf-8").partition("\n[counts]")[0].rstrip()
    lines = [
        f'"{file}" = {{ {", ".join(f"{host} = {numbers}" for host, numbers in row.items())} }}'
        for file in suite.files
        if (row := {**suite.counts.get(file, {}), **found.get(file, {})})
    ]
    suite.path.write_text("\n".join([head, "", "[counts]", *lines, ""]), encoding="utf-8")
