"""Which host a test asks for: its marks, its parameters, and what globs name.

Owns the reading of `host` and `hosts`. It enters nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import pytest

from devpolicy._core.host import Host

MARKS = ("host", "hosts")
OPTIONS = {"depth", "children"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The host that a test asked for, by what name, and how it is simulated."""

    name: str
    host: Host
    depth: str = "probes"
    children: bool = False


def marked(test: Any) -> list[Asked]:
    """Return the hosts of the nearest mark: the function's, before its class's, before its module's."""
    nearest: tuple[Any, pytest.Mark] | None = None
    for node, mark in test.iter_markers_with_node():
        if mark.name not in MARKS:
            continue
        if nearest is None:
            nearest = node, mark
        elif nearest[0] is node:
            refuse(test, "it has two marks of hosts: write one `hosts` that names them all")
    return [] if nearest is None else _hosts(test, nearest[1])


def of_parameter(test: pytest.Item, marks: list[pytest.Mark], *, also: bool) -> Asked:
    """Return the host of a mark that a parameter has; `also`: whether the test has one of its own.

    One, since the parameters of a test are settled when its marks are read.
    """
    hosts = _hosts(test, marks[0])
    if len(marks) > 1 or len(hosts) > 1:
        refuse(test, 'a parameter is on one host: give it one mark, as in `pytest.mark.host("2x24gb")`')
    if also:
        refuse(test, "both the test and its parameter have a mark of hosts: leave one of them out")
    return hosts[0]


def of_value(test: pytest.Item, given: Any) -> Asked:
    """Return the host that `parametrize("simulated_host", …, indirect=True)` gave."""
    return given if isinstance(given, Asked) else _asked(test, "parametrize", given, _options(test, {}), 0)


def load(name: Any, folder: Path) -> Host:
    """Return a host by catalogue name, or from a file that a relative path names from `folder`. Raises `HostError`."""
    is_file = isinstance(name, Path) or (isinstance(name, str) and name.endswith(".toml"))
    return Host.load(folder / name if is_file else name)


def short(name: Any) -> str:
    """Return what a test's id calls a host: a file by its name alone."""
    return Path(name).stem if str(name).endswith(".toml") else str(name)


def refuse(test: Any, message: str) -> NoReturn:
    """Make it an error of the test or of the collection, without a traceback."""
    raise pytest.fail.Exception(f"{test.nodeid}: {message}", pytrace=False) from None


def _hosts(test: Any, mark: pytest.Mark) -> list[Asked]:
    if set(mark.kwargs) - OPTIONS or not mark.args or (mark.name == "host" and len(mark.args) > 1):
        example = 'host("2x24gb")' if mark.name == "host" else 'hosts("cpu-only", "8x80gb")'
        refuse(test, f"write `@pytest.mark.{example}`, with names of the catalogue, files or hosts")
    options = _options(test, mark.kwargs)
    named = [each for given in mark.args for each in (_matching(test, given) if mark.name == "hosts" else [given])]
    return [_asked(test, mark.name, given, options, number) for number, given in enumerate(named)]


def _options(test: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a host is simulated: by the arguments of the mark, else by the run's options."""
    option = test.config.getoption
    depth = given.get("depth") or option("devpolicy_depth") or test.config.getini("devpolicy_depth") or "probes"
    children = option("devpolicy_children") or test.config.getini("devpolicy_children")
    return {"depth": depth, "children": bool(given.get("children", children))}


def _matching(test: Any, given: Any) -> list[Any]:
    """Return the hosts that a glob names: `faulty/*` of the catalogue, `hosts/*.toml` of files."""
    if not isinstance(given, str) or not any(character in given for character in "*?["):
        return [given]
    if given.endswith(".toml"):
        root = test.config.rootpath
        found: list[Any] = sorted(str(file.relative_to(root)) for file in root.glob(given))
    else:
        from devpolicy._core.simulation.catalogue import host_catalogue

        found = [name for name in host_catalogue() if _matches(name, given)]
    if not found:
        refuse(test, f"`{given}` matches no host: `devpolicy host list` names them")
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether a name matches part by part: a star does not reach over a slash."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _asked(test: Any, mark: str, given: Any, options: dict[str, Any], number: int) -> Asked:
    if isinstance(given, Host):
        return Asked(given.name or f"{mark}{number}", given, **options)
    try:
        return Asked(short(given), load(given, test.config.rootpath), **options)
    except ValueError as refused:
        return refuse(test, f"`@pytest.mark.{mark}`: {refused}")
