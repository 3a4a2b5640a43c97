"""The effective values of a policy, each with the place that it comes from.

Owns the list behind `devpolicy show`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import fields_of
from devpolicy._core.toml.writer import write_key

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.language.merging import ConfigLayer
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.toml.spans import KeyPath

_ELSEWHERE = frozenset({"rule", "offload", "extends", "profile", "test", "host", "schema"})
"""Keys that are shown elsewhere, or that have no effect on a plan."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value: its dotted key, and what TOML gives for it; a default's is the text of the reference."""

    key: str
    value: Any
    place: Place | None
    """Where it was written, `None` for a default."""


def effective(policy: Policy) -> list[Value]:
    """Return the values of a policy as written, and then the defaults of what it leaves out.

    Rules are in `Policy.rules`, each with its place.
    """
    layer, top = policy.layer, fields_of(TopTable)
    keys = [field.name for field in top]
    data = dict(sorted(layer.data.items(), key=lambda entry: keys.index(entry[0]) if entry[0] in keys else -1))
    said = list(_walk(layer, data, ()))
    defaults = [(field.name, field.default) for field in top if field.name not in layer.data]
    for name, table in (("workload", Workload), ("loading", LoadingTable)):
        written = layer.data.get(name, {})
        defaults += [(f"{name}.{field.name}", field.default) for field in fields_of(table) if field.name not in written]
    unsaid = [Value(key, text.replace("`", "").strip('"'), None) for key, text in defaults if text and key != "schema"]
    return [*said, *unsaid]


def _walk(layer: ConfigLayer, data: dict[str, Any], path: KeyPath) -> Iterator[Value]:
    for key, value in data.items():
        here = (*path, key)
        if key in _ELSEWHERE and path[-1:] not in (("component",), ("devices",), ("memory",)):
            continue
        name = ".".join(write_key(str(part)) for part in here)
        if isinstance(value, dict) and value and key != "prefer":
            yield from _walk(layer, value, here)
        elif key == "avoid" and isinstance(value, list):
            # Its entries may come from several texts.
            for at, entry in enumerate(value):
                yield Value(name, entry, layer.origins.place((*here, at)))
        else:
            yield Value(name, value, layer.origins.place(here, "key"))
