"""`node` of a component: on which machine of several it may run.

Owns the value and its reading. On one host the conditions must hold, and labels mean nothing: a host has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from devpolicy._core.language.condition_keys import CONDITION, condition
from devpolicy._core.language.conditions import Condition
from devpolicy._core.toml.tables import TEXT, Cursor, Field, Kind, choice, list_of, table_schema, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import JsonSchema

Nodes = Literal["pack", "spread"]
NODES: Kind[Nodes] = choice("pack", "spread")


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine must be and have for a component."""

    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each label with its values: any of them."""
    condition: Condition | None = None


_VALUES = list_of(TEXT, or_one=True, least=1)
_CONDITION = condition("`node`")


def _read_labels(value: object, cursor: Cursor) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table", 'write `labels = { zone = "a" }`')
        return ()
    read = [(name, _VALUES.read(one, cursor.at(name))) for name, one in value.items()]
    return tuple((name, values) for name, values in read if values is not None)


def _read_node(value: object, cursor: Cursor) -> Node | None:
    if not isinstance(value, dict):
        wrong_type(value, cursor, "a table of labels and conditions", 'write `node = { labels = { zone = "a" } }`')
        return None
    before = len(cursor.findings)
    labels = _read_labels(value["labels"], cursor.at("labels")) if "labels" in value else ()
    rest = {key: one for key, one in value.items() if key != "labels"}
    found = _CONDITION.read(rest, cursor) if rest or "labels" not in value else None
    return Node(labels, found) if len(cursor.findings) == before else None


_LABELS = Field(
    "labels",
    Kind("a table", lambda value, cursor: value, {"type": "object", "additionalProperties": _VALUES.schema}),
    "Labels of the machine: each is equal, or one of a list.",
)
NODE_SCHEMA: JsonSchema = {**table_schema((_LABELS, *CONDITION)), "minProperties": 1}
NODE: Kind[Node] = Kind("a table: `labels`, and conditions as in `[require]`", _read_node, NODE_SCHEMA)
