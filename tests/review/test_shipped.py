"""Shipped policies pass their tests, and their tests notice whatever is taken out of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import tomli

from devpolicy import Policy
from devpolicy._core.review.coverage import coverage
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import bind_policy, gather
from devpolicy._core.shipped import shipped_files
from devpolicy.errors import PolicyError

SHIPPED = shipped_files("policy")
OPEN = {"offload", "memory", "require", "when", "reserve"}
"""Tables of which every entry says something."""
LISTS = {"prefer", "overflow", "avoid", "rule"}
SAID = {"split", "ties", "same", "count", "share", "extends", "headroom", "cap", "basis", "when", "class", "size"}
Path = tuple[str | int, ...]


def removable(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every rule, preference and further word of a policy, as the path of what is taken out."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        here = (*path, key)
        if key in ("test", "host"):
            continue
        if key in LISTS and isinstance(inner, list):
            yield from ((*here, at) for at in range(len(inner)))
            for at, entry in enumerate(inner):
                yield from removable(entry, (*here, at))
        elif key in OPEN and isinstance(inner, dict):
            yield here
            yield from ((*here, entry) for entry in inner)
            for entry, said in inner.items():
                yield from removable(said, (*here, entry))
        elif key in LISTS | SAID:
            yield here
        else:
            yield from removable(inner, here)


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def without(data: dict[str, Any], path: Path) -> str:
    """The policy's text with one thing taken out, or whole."""
    changed = copy.deepcopy(data)
    owner: Any = changed
    for key in path[:-1]:
        owner = owner[key]
    if path:
        del owner[path[-1]]
    return "".join(f"{json.dumps(key)} = {inline(value)}\n" for key, value in changed.items())


def noticed(text: str) -> bool:
    """Whether a test fails, or the policy or a test of it cannot even be read."""
    try:
        suite = bind_policy(Policy.parse(text), "mutant.toml")
    except PolicyError:
        return True
    return not all(result.passed for result in run_all([suite], jobs=1))


MUTANTS = [
    pytest.param(name, path, id=f"{name}: {'.'.join(map(str, path))}")
    for name, file in SHIPPED.items()
    for path in removable(tomli.loads(file.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_passes_its_tests(name: str) -> None:
    results = run_all(gather([name]), jobs=1)
    assert results, "it has none"
    assert [finding.render() for result in results for finding in result.findings] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_everything_in_a_shipped_policy_decides_something(name: str) -> None:
    suites = gather([name])
    assert [never for one in coverage(suites, run_all(suites, jobs=1)) for never in one.never] == []


@pytest.mark.parametrize(("name", "path"), MUTANTS)
def test_nothing_can_be_taken_out_without_a_test_noticing(name: str, path: Path) -> None:
    data = tomli.loads(SHIPPED[name].read_text(encoding="utf-8"))
    assert noticed(without(data, path))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_that_is_written_anew_means_the_same(name: str) -> None:
    text = SHIPPED[name].read_text(encoding="utf-8")
    assert Policy.parse(without(tomli.loads(text), ())) == Policy.parse(text)
