"""The keys of one table: a policy, a profile, or a part of them.

Owns how the keys are read into a `Policy`, and the checks that look at several of them together. Where the table
comes from, and what lies over it, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devpolicy._core.language.components import check_prefer, read_components
from devpolicy._core.language.devices import read_classes
from devpolicy._core.language.fields import PROFILE, SCHEMA_VERSION, TOP
from devpolicy._core.language.memory import read_memory
from devpolicy._core.language.policy import DeviceSelector, Policy, Workload
from devpolicy._core.language.rules import read_rules
from devpolicy._core.language.tests import read_hosts, read_tests
from devpolicy._core.toml.tables import Cursor, read_table

if TYPE_CHECKING:
    from devpolicy._core.errors import Diagnostic
    from devpolicy._core.language.merging import Layer

_ELSEWHERE = frozenset({"component", "extends", "profile"})
"""Where `prefer` may stand instead of the top."""
PARTS = tuple(replace(field, required=False) for field in TOP)
"""The keys of a policy that others may complete."""


def classes_of(value: object, cursor: Cursor) -> Mapping[str, Any]:
    """Return the classes that `[devices]` defines, `None` for a malformed one."""
    return {} if value is None else read_classes(value, cursor)


def classes_in(policy: Policy) -> Mapping[str, Any]:
    """Return the classes of devices that a policy's text defines."""
    text = policy.text
    return {} if text is None else classes_of(text.data.get("devices"), Cursor(text.origins, ("devices",), []))


def read_tables(
    layer: Layer, names: Mapping[str, Any], fields: Sequence[Any], what: str
) -> tuple[Policy, list[Diagnostic]]:
    """Read the keys of one layer, and return what is wrong with them."""
    findings: list[Diagnostic] = []
    data = layer.data
    cursor = Cursor(layer.origins, layer.path, findings, names=names)
    complete, whole = fields is TOP and "profile" not in data, fields is not PROFILE
    if fields is TOP and data.keys() & _ELSEWHERE:
        fields = PARTS
    if "devices" in data:
        read_classes(data["devices"], cursor.at("devices"))
    top = read_table(
        data, cursor, fields, what=what, label="a key of a policy" if fields is not PROFILE else f"a key of {what}"
    )
    rules = read_rules(data.get("offload"), data.get("rule"), cursor)
    memory, folder = read_memory(data.get("memory", {}), cursor.at("memory"))
    hosts = read_hosts(data.get("host", {}), cursor.at("host")) if whole else ()
    tests = read_tests(data.get("test", []), cursor.at("test")) if whole else ()
    components = read_components(data.get("component", {}), cursor.at("component"), rules)
    policy = Policy(
        prefer=top.get("prefer", ()),
        overflow=top.get("overflow", ()),
        avoid=top.get("avoid", ()),
        split=top.get("split", "when-needed"),
        ties=top.get("ties", "refuse"),
        rules=rules,
        memory=memory,
        disk_path=folder,
        workload=Workload(**top.get("workload", {})),
        require=top.get("require"),
        hosts=hosts,
        tests=tests,
        components=components,
        schema=SCHEMA_VERSION,
        source=layer.origins.source,
        prefer_place=layer.origins.place((*layer.path, "prefer"), "key"),
    )
    if complete and not any(finding.severity == "error" for finding in findings):
        check_prefer(policy, cursor)
    _check_workloads(policy, cursor)
    _lint({"prefer": policy.prefer, "overflow": policy.overflow, "avoid": policy.avoid}, policy.avoid, cursor)
    for entry in components:
        own = {"prefer": entry.prefer or (), "overflow": entry.overflow or (), "avoid": entry.avoid}
        _lint(own, (*policy.avoid, *entry.avoid), cursor.at("component", entry.name))
    return policy, findings


def _check_workloads(policy: Policy, cursor: Cursor) -> None:
    """Collect DP106 where an answer is as long as the sequence that has to hold it."""
    said = [(policy.workload, cursor.at("workload"))]
    for entry in policy.components:
        if dict(entry.workload).keys() & {"context", "new_tokens"}:
            merged = replace(policy.workload, **dict(entry.workload))
            said.append((merged, cursor.at("component", entry.name, "workload")))
    for workload, here in said:
        context, answer = workload.context, workload.new_tokens
        if context is not None and answer is not None and answer >= context:
            message = f"an answer of {answer} tokens leaves no room for a prompt in a context of {context}"
            hint = "`context` is prompt and answer together: make it larger than `new_tokens`"
            here.at("new_tokens").error("DP106", message, label="too many", help=hint)


def _lint(said: Mapping[str, Sequence[DeviceSelector]], avoid: Sequence[DeviceSelector], cursor: Cursor) -> None:
    """Collect DP503 for terms of a table that an earlier one includes, or that `avoid` rules out."""
    for key, terms in said.items():
        here = cursor.at(key)
        for index, term in enumerate(terms):
            at = here.at(index)
            before = next((other for other in terms[:index] if _includes(other, term)), None)
            avoided = key != "avoid" and any(_includes(other, term) for other in avoid)
            if before is not None:
                hint = f"`{before}` stands before it and includes it" if before != term else "it stands there before"
                _warn(at, term, "without effect", hint)
            elif avoided:
                _warn(at, term, "never used", "`avoid` rules it out")


def _warn(cursor: Cursor, term: DeviceSelector, label: str, note: str) -> None:
    cursor.error("DP503", f"`{term}` is never used here", label=label, notes=[note], severity="warning")


def _includes(one: DeviceSelector, other: DeviceSelector) -> bool:
    """Whether what serves as `other` always serves as `one`."""
    broad = one.id is None and one.cls is None and not one.count and not one.same
    return one == other or (one.type == other.type and broad)
