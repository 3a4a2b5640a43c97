"""What the policy's JSON schema offers at a place: keys with their meaning, and the words of values.

Owns the way through its references and alternatives, for the completion of shells and editors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


def properties_of(schema: Schema, root: Schema) -> dict[str, Any]:
    """Return the schemas of the keys that a table names."""
    found: dict[str, Any] = {}
    for part in alternatives(schema, root):
        found |= part.get("properties", {})
    return found


def free_values(schema: Schema, root: Schema) -> list[Schema]:
    """Return the schemas of the values under a table's free keys."""
    found = (part.get("additionalProperties") for part in alternatives(schema, root))
    return [one for one in found if isinstance(one, Mapping)]


def words_of(schemas: Iterable[Schema], root: Schema) -> list[str]:
    """Return the words that a value may be."""
    parts = [part for schema in schemas for part in alternatives(schema, root)]
    words = [str(word) for part in parts for word in part.get("enum", ()) if isinstance(word, str)]
    return words or ["true", "false"] * any(part.get("type") == "boolean" for part in parts)


def at_path(schema: Schema, path: Sequence[str], root: Schema) -> list[Schema]:
    """Return the schemas of a key, none if there is no such key."""
    here = [schema]
    for key in path:
        here = [child for one in here for child in _below(one, key, root)]
    return here


def _below(schema: Schema, key: str, root: Schema) -> list[Schema]:
    known = properties_of(schema, root)
    if key in known:
        return [known[key]]
    patterns = [item for part in alternatives(schema, root) for item in part.get("patternProperties", {}).items()]
    return [*(value for pattern, value in patterns if re.search(pattern, key)), *free_values(schema, root)]


def alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yield a schema and the alternatives that it is made of, with every `$ref` followed."""
    schema = resolved(schema, root)
    yield schema
    for key in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(key, ()):
            if "required" not in part:
                yield from alternatives(part, root)


def resolved(schema: Schema, root: Schema) -> Schema:
    """Return a schema, or the one that it refers to."""
    while "$ref" in schema:  # ends: the schema is ours, and none of its references refers to itself
        found: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema
