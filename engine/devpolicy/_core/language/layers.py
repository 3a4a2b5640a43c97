"""Which parts of a policy apply to a component, and their merged settings.

Owns the precedence (the exact name, then globs in file order, then the top of the policy), the resolution of a
component, and the order in which components are planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.language.components import Component, ComponentTable
from devpolicy._core.language.devices import classes_in
from devpolicy._core.language.merging import ConfigLayer, merge
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.toml.tables import Cursor, did_you_mean, read_as, suggest

if TYPE_CHECKING:
    from devpolicy._core.language.policy import DeviceSelector, Policy

_MERGED = ("prefer", "overflow", "avoid", "split", "ties", "memory", "workload", "loading", "relax")
"""Keys of the top that an entry replaces, or is merged with. Rules and conditions line up."""
_OF_ONE_ENTRY = ("type", "model", "needs", "offload", "rule", "require")


def matching_entries(
    entries: Iterable[Component], name: str | None, component_class: str | None = None
) -> list[Component]:
    """Return those of a policy's entries that apply to a component, the nearest first.

    An entry with a `type` applies only to components of such a class. Where the class is not known, it applies if it
    names the component exactly.
    """
    if name is None:
        return []
    name = stem_of(entries := tuple(entries), name)
    named = [entry for entry in entries if addresses(entry, name)]
    named.sort(key=lambda entry: entry.name != name)
    return [entry for entry in named if _meant(entry, component_class, exactly=entry.name == name)]


def stem_of(entries: Iterable[Component], name: str) -> str:
    """Return the component of which a name is a replica's, as `NAME` of `NAME/0`; else the name itself."""
    stem, slash, number = name.rpartition("/")
    if not (slash and stem and number.isdecimal()):
        return name
    known = tuple(entries)
    if any(entry.name == name for entry in known):
        return name
    return stem if any(entry.replicas is not None and addresses(entry, stem) for entry in known) else name


def addresses(entry: Component, name: str) -> bool:
    """Whether an entry's name is a component's, or a glob that it matches."""
    return entry.name == name or (entry.is_glob and _matches(entry.name, name))


def _matches(glob: str, text: str) -> bool:
    return fnmatchcase(text, glob.replace("[", "[[]"))


def _meant(entry: Component, component_class: str | None, *, exactly: bool) -> bool:
    if entry.type is None:
        return True
    return exactly if component_class is None else _matches(entry.type, component_class)


def source(policy: Policy, name: str, component_class: str | None = None) -> Component | None:
    """Return the nearest entry that gives the component's `model` or `needs`, `None` where none does."""
    entries = matching_entries(policy.components, name, component_class)
    return next((entry for entry in entries if entry.models or entry.needs is not None), None)


def resolve(policy: Policy, name: str | None, component_class: str | None = None) -> ResolvedPolicy:
    """Merge all entries that apply with the top: `Policy.for_component`.

    Lists replace, tables merge key by key, `avoid` adds up, rules and requirements line up, the nearest first.
    """
    top = replace(policy.top, component=name, notices=(*_misnamed(policy, name), *policy.top.notices))
    entries = matching_entries(policy.components, name, component_class)
    if not policy.prefer and not any(entry.prefer for entry in entries):
        raise PolicyError(_nowhere(policy, name))
    if name is None or not entries:
        return top
    said = {key: value for key, value in policy.layer.data.items() if key in _MERGED}
    base = replace(policy.layer, data=said)
    merged = merge([base, *(_layer_of(policy.layer, entry) for entry in reversed(entries))])
    cursor = Cursor(merged, (), [], names=classes_in(policy.layer))
    keys = read_as(ComponentTable, merged.data, cursor, what=f"component `{name}`")
    if any(finding.severity == "error" for finding in cursor.findings):
        raise PolicyError(cursor.findings)
    giving = source(policy, name, component_class)
    return replace(
        top,
        prefer=keys.prefer or (),
        overflow=top.overflow if keys.overflow is None else keys.overflow,
        avoid=keys.avoid,
        # Each of several copies is whole on one device, unless the policy says otherwise.
        split=keys.split or ("never" if keys.replicas == "each" else top.split),
        ties=keys.ties or top.ties,
        rules=(*(rule for entry in entries for rule in entry.rules), *top.rules),
        memory=keys.memory.rules,
        disk_path=keys.memory.disk_path,
        workload=keys.workload or top.workload,
        loading=keys.loading or top.loading,
        needs=None if giving is None else giving.needs,
        share=keys.share,
        target=keys.target,
        relax=keys.relax or (),
        replicas=keys.replicas or 1,
        node=keys.node,
        nodes=keys.nodes or "pack",
        required=(
            *(entry.require for entry in entries if entry.require is not None),
            *([keys.node.condition] if keys.node is not None and keys.node.condition is not None else []),
        ),
        prefer_place=merged.place(("prefer",), "key"),
    )


def _layer_of(base: ConfigLayer, entry: Component) -> ConfigLayer:
    table: dict[str, Any] = base.data["component"][entry.name]
    data = {key: value for key, value in table.items() if key not in _OF_ONE_ENTRY}
    return ConfigLayer(base.origins, data, (*base.path, "component", entry.name))


def _nowhere(policy: Policy, name: str | None) -> Diagnostic:
    names = [entry.name for entry in policy.components]
    if name is None:
        message = "the policy says where components run, and no component is named"
        return Diagnostic("DP202", message, help=did_you_mean("", names))
    message = f"the policy has no component `{name}`, and no `prefer` at the top"
    return Diagnostic("DP202", message, help=did_you_mean(name, names))


def _misnamed(policy: Policy, name: str | None) -> list[Diagnostic]:
    """Return a warning (DP508) where a component is spelt nearly as one of the policy that does not apply to it."""
    if name is None or any(addresses(entry, name) for entry in policy.components):
        return []
    near = suggest(name, [entry.name for entry in policy.components])
    if not near:
        return []
    message = f"the policy has no component `{name}`, so only its top applies to it"
    return [Diagnostic("DP508", message, help=f"did you mean `{near}`?", severity="warning")]


def told_where(entries: Sequence[Component], prefer: Sequence[DeviceSelector], cursor: Cursor) -> None:
    """Collect DP105 for each component for which neither an entry nor the top sets `prefer`."""
    for entry in entries:
        told = prefer or any(other.prefer for other in matching_entries(entries, entry.name))
        if not told and not entry.is_glob:
            hint = 'say where it runs, here or at the top: `prefer = ["cuda", "mps"]`'
            message = f"`prefer` is missing for component `{entry.name}`"
            cursor.at("component", entry.name).error("DP105", message, help=hint, part="header")


def in_order(policy: Policy, names: Iterable[str] = ()) -> list[str]:
    """Return the components of a policy, and `names` that it need not have, in the order in which they are planned.

    That is file order. A name that only globs match comes where the first of them is written, one that the policy does
    not know behind all others; alike ones as given.
    """
    places = {entry.name: number for number, entry in enumerate(policy.components) if not entry.is_glob}
    every = dict.fromkeys([*places, *names])

    def place(name: str) -> int:
        name = stem_of(policy.components, name)
        if name in places:
            return places[name]
        globs = (number for number, entry in enumerate(policy.components) if addresses(entry, name))
        return next(globs, len(policy.components))

    return sorted(every, key=place)
