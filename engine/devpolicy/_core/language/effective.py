"""What a policy says in the end, each value with the place that it comes from.

Owns the list behind `devpolicy show`. It decides nothing: what counts was decided when the policy was read and applied
to a host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devpolicy._core.language.fields import TOP, WORKLOAD
from devpolicy._core.toml.document import write_key

if TYPE_CHECKING:
    from devpolicy._core.errors import Place
    from devpolicy._core.language.merging import Layer
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.toml.spans import KeyPath

_ELSEWHERE = frozenset({"rule", "offload", "extends", "profile", "test", "host", "schema"})
"""Keys that are told in another way, or that decide nothing."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value: its dotted key, and what TOML gives for it; a default's is the text of the reference."""

    key: str
    value: Any
    place: Place | None
    """Where it was written, `None` for a default."""


def effective(policy: Policy) -> list[Value]:
    """Return the values of a policy that was read from text, as written, and then the defaults of what it leaves out.

    Rules are told by `Policy.rules`, each with its place.
    """
    if policy.text is None:
        return []
    keys = [field.name for field in TOP]
    data = dict(sorted(policy.text.data.items(), key=lambda entry: keys.index(entry[0]) if entry[0] in keys else -1))
    said = list(_walk(policy.text, data, ()))
    workload = policy.text.data.get("workload", {})
    defaults = [(field.name, field.default) for field in TOP if field.name not in policy.text.data]
    defaults += [(f"workload.{field.name}", field.default) for field in WORKLOAD if field.name not in workload]
    unsaid = [Value(key, text.replace("`", "").strip('"'), None) for key, text in defaults if text and key != "schema"]
    return [*said, *unsaid]


def _walk(layer: Layer, data: dict[str, Any], path: KeyPath) -> Iterator[Value]:
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
