"""Which parts of a policy speak for a component, and what they say together.

Owns the order of the layers (the exact name, then globs as written, then the top of the policy), how they are merged,
and the order in which components are planned. It reads no text and knows neither a host nor a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.language.policy import Component, MemoryRule, Policy
from devpolicy._core.toml.tables import did_you_mean

_NEAREST = ("prefer", "overflow", "split", "ties", "disk_path", "share", "target", "prefer_place")
"""Keys of which the nearest layer's counts alone."""


def speaking(policy: Policy, name: str | None, cls: str | None = None) -> list[Component]:
    """Return the entries that speak for a component, the nearest first.

    An entry with a `type` speaks only for components of such a class. Where the class is not known, that is left open
    for the entry that names the component itself, and no glob with a `type` speaks.
    """
    if name is None:
        return []
    named = [entry for entry in policy.components if addresses(entry, name)]
    named.sort(key=lambda entry: entry.name != name)
    return [entry for entry in named if _meant(entry, cls, exactly=entry.name == name)]


def addresses(entry: Component, name: str) -> bool:
    """Whether an entry's name is a component's, or a glob that it matches."""
    return entry.name == name or (entry.is_glob and _matches(entry.name, name))


def _matches(glob: str, text: str) -> bool:
    return fnmatchcase(text, glob.replace("[", "[[]"))


def _meant(entry: Component, cls: str | None, *, exactly: bool) -> bool:
    if entry.type is None:
        return True
    return exactly if cls is None else _matches(entry.type, cls)


def source(policy: Policy, name: str, cls: str | None = None) -> Component | None:
    """Return the nearest entry that gives the component's `model` or `needs`, `None` where none does."""
    layers = speaking(policy, name, cls)
    return next((entry for entry in layers if entry.model is not None or entry.needs is not None), None)


def merged(policy: Policy, name: str | None, cls: str | None = None) -> Policy:
    """Return what all layers say together: lists replace, tables merge key by key, `avoid` adds up, rules line up.

    Raises `PolicyError`, DP202, where no layer says where the component runs.
    """
    if not all(text is None or isinstance(text, str) for text in (name, cls)):
        raise PolicyError("a component and its class are named by text")
    if not policy.components:
        return policy
    layers = speaking(policy, name, cls)
    if not policy.prefer and not any(entry.prefer for entry in layers):
        names = [entry.name for entry in policy.components]
        if name is None:
            message = "the policy says where components run, and no component is named"
            raise PolicyError(Diagnostic("DP202", message, help=did_you_mean("", names)))
        message = f"the policy has no component `{name}`, and no `prefer` at the top"
        raise PolicyError(Diagnostic("DP202", message, help=did_you_mean(name, names)))
    said: dict[str, Any] = {}
    for key in _NEAREST:
        value = next((value for entry in layers if (value := getattr(entry, key)) is not None), None)
        # The place belongs to `prefer`: nobody else's is taken where there is none.
        if value is not None and (key != "prefer_place" or "prefer" in said):
            said[key] = value
    workload = {key: value for entry in reversed(layers) for key, value in entry.workload}
    return replace(
        policy,
        **said,
        avoid=(*policy.avoid, *(term for entry in reversed(layers) for term in entry.avoid)),
        rules=(*(rule for entry in layers for rule in entry.rules), *policy.rules),
        memory=_merged_memory([policy.memory, *(entry.memory for entry in reversed(layers))]),
        workload=replace(policy.workload, **workload),
        required=tuple(entry.require for entry in layers if entry.require is not None),
        components=(),
    )


def _merged_memory(layers: Iterable[Sequence[MemoryRule]]) -> tuple[MemoryRule, ...]:
    """Merge what layers, the weakest first, say of the same devices: key by key."""
    said: dict[object, MemoryRule] = {}
    for rule in (rule for layer in layers for rule in layer):
        before = said.get(rule.term)
        if before is not None:
            keys = ("basis", "cap", "headroom", "kv_cache", "activations")
            stated = {key: value for key in keys if (value := getattr(rule, key)) is not None}
            rule = replace(before, **stated, place=rule.place)
        said[rule.term] = rule
    return tuple(said.values())


def in_order(policy: Policy, names: Iterable[str] = ()) -> list[str]:
    """Return the components of a policy, and `names` that it need not have, in the order in which they are planned.

    That is the written order. A name that only globs speak for stands where the first of them is written, one that the
    policy does not know behind all others; alike ones as given.
    """
    places = {entry.name: number for number, entry in enumerate(policy.components) if not entry.is_glob}
    every = dict.fromkeys([*places, *names])

    def place(name: str) -> int:
        if name in places:
            return places[name]
        globs = (number for number, entry in enumerate(policy.components) if addresses(entry, name))
        return next(globs, len(policy.components))

    return sorted(every, key=place)
