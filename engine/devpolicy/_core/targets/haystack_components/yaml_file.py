"""Saved pipelines as files: YAML that a stranger may have written.

Owns what of YAML is read and how much of it. Only data: no tag makes an object. An alias counts each time that it is
used, since whoever walks the values walks it each time; no value is inside of itself, and nothing is merged into keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from devpolicy._core.errors import DevPolicyError, Diagnostic, MissingLibraryError
from devpolicy._core.files import read_file

LARGEST_PIPELINE = 1 << 20
"""Bytes of a saved pipeline. One with long prompts has some hundred thousand."""
MOST_VALUES = 100_000
"""Values in it, those behind an alias each time that it is used."""
DEEPEST = 64
"""Levels of tables and lists."""
_LONGEST_NUMBER = 400
_NUMBER = re.compile(rf"[-+0-9:_.xXa-fA-F]{{{_LONGEST_NUMBER},}}")
"""What PyYAML may take for a number: to read the digits of a long one takes time that grows with their square."""


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Return the value in a YAML file. Raises `DevPolicyError` that names the file, DP101, DP104 or DP109."""
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as missing:
        raise MissingLibraryError("a saved pipeline is YAML, which PyYAML reads: run `pip install pyyaml`") from missing
    content = read_file(path, DevPolicyError, most=LARGEST_PIPELINE)
    if len(content) > LARGEST_PIPELINE:
        raise _beyond(path, f"is larger than {LARGEST_PIPELINE >> 20} MiB")
    try:
        text = content.decode("utf-8")
        _check(path, text, yaml)
        value = yaml.load(text, _loader(yaml))
        if _count(value, {}) > MOST_VALUES:
            raise _beyond(path, f"holds more than {MOST_VALUES} values")
    except DevPolicyError:
        raise
    except RecursionError:
        raise _deep(path) from None
    except Exception as broken:  # noqa: BLE001 - PyYAML raises anything for a value that its tag does not fit
        told = " ".join(str(broken).replace(' in "<unicode string>",', " in").split()) or type(broken).__name__
        raise DevPolicyError([Diagnostic("DP101", f"`{os.fspath(path)}` is not YAML: {told}")]) from None
    return value


def _check(path: str | os.PathLike[str], text: str, yaml: Any) -> None:
    """Refuse what would cost more than its size to make values of: it is seen as it is read, before any is made."""
    depth = 0
    for event in yaml.parse(text, _loader(yaml)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise _deep(path)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and _NUMBER.fullmatch(event.value):
            raise _beyond(path, f"holds a number of more than {_LONGEST_NUMBER} digits")


def _loader(yaml: Any) -> Any:
    """Return PyYAML's safe loader, the fast one where it is built, without merge keys: they double what they name."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def flatten_mapping(self, node: Any) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, "merge keys (`<<`) are not read", key.start_mark
                    )

    return Loader


def _count(value: Any, known: dict[int, int | None]) -> int:
    """Return how many values there are inside a value, shared ones each time. Raises `RecursionError` for circles."""
    if not isinstance(value, Mapping | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = None
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_count(one, known) for one in inner)
    count = known[id(value)]
    if count is None:
        raise RecursionError
    return count


def _deep(path: str | os.PathLike[str]) -> DevPolicyError:
    return _beyond(path, f"is nested deeper than {DEEPEST} levels")


def _beyond(path: str | os.PathLike[str], what: str) -> DevPolicyError:
    return DevPolicyError([Diagnostic("DP104", f"`{os.fspath(path)}` {what}, the limit of a saved pipeline")])
