"""The completions at a position of a policy: keys with their meaning, and words of values.

Owns which table a line belongs to. What a table offers comes from the JSON schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy._core.language.schema import policy_schema
from devpolicy._core.language.schema_walk import Schema, alternatives, at_path, properties_of, words_of
from devpolicy._core.model.catalogue import model_catalogue

_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]#]+?)\s*\]{1,2}")
_KEY = re.compile(r"\s*([\w.\"' -]*)")
_WORD = re.compile(r"[\w.:*-]*$")
_MOST = 40
_OF_DEVICES = ("prefer", "avoid", "overflow")


def complete(text: str, line: int, column: int) -> list[dict[str, str]]:
    """Return the completions at a position, counted from 0: `insert` is the rest to be written, `label` all of it."""
    lines = text.split("\n")
    before = lines[line][:column] if line < len(lines) else ""
    table = next(
        (_path(found[1]) for above in reversed(lines[:line]) if (found := _HEADER.match(above))),
        [],
    )
    schema = policy_schema()
    if "=" in before:
        key, _, value = before.partition("=")
        started = _WORD.search(value)
        given = started[0] if started else ""
        quoted = value[: len(value) - len(given)].endswith('"')
        words = _values([*table, *_path(key)], schema)
        return [_offer(word, given, word if quoted or word in ("true", "false") else f'"{word}"', "") for word in words
                if word.startswith(given)][:_MOST]  # fmt: skip
    if before.lstrip().startswith("["):
        given = before.lstrip("[ ")
        tables = [name for name, entry in properties_of(schema, schema).items() if _is_table(entry, schema)]
        return [_offer(name, given, name, "") for name in tables if name.startswith(given)]
    found = _KEY.fullmatch(before)
    given = found[1] if found else ""
    *outer, last = given.split(".")
    known: dict[str, Any] = {}
    for one in _entries(at_path(schema, [*table, *outer], schema), schema):
        known |= properties_of(one, schema)
    return [_offer(key, last, key, str(entry.get("description", ""))) for key, entry in known.items()
            if key.startswith(last)][:_MOST]  # fmt: skip


def _offer(label: str, given: str, whole: str, about: str) -> dict[str, str]:
    quote = whole.startswith('"') and not given
    return {"label": label, "insert": whole if quote else whole.strip('"')[len(given) :], "about": about}


def _values(path: Sequence[str], schema: Any) -> list[str]:
    if path and path[-1] == "model":
        return list(model_catalogue())
    if path and path[-1] in _OF_DEVICES:
        return [*ACCELERATOR_TYPES, "cpu", *(["disk"] if path[-1] == "overflow" else [])]
    return words_of(_entries(at_path(schema, path, schema), schema), schema)


def _entries(schemas: Sequence[Schema], root: Any) -> list[Schema]:
    """Return schemas, and those of the entries where they are lists."""
    parts = [part for one in schemas for part in alternatives(one, root)]
    return [*parts, *(part["items"] for part in parts if "items" in part)]


def _is_table(entry: Any, schema: Any) -> bool:
    return bool(properties_of(entry, schema)) or any(key in entry for key in ("items", "additionalProperties"))


def _path(key: str) -> list[str]:
    return [part.strip().strip("\"'") for part in key.strip().split(".") if part.strip()]
