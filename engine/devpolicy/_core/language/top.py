"""The keys of one table: a policy, a profile, or a part of them.

Owns how the keys are read, and the checks that look at several of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.language.components import Component, read_components
from devpolicy._core.language.devices import DeviceClass, read_classes
from devpolicy._core.language.fields import ProfileTable, SettingsTable, TopTable
from devpolicy._core.language.layers import told_where
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.language.rules import read_rules
from devpolicy._core.language.tests import PolicyTest, read_hosts, read_tests
from devpolicy._core.language.wishes import ContextRange
from devpolicy._core.toml.tables import Cursor, read_as

if TYPE_CHECKING:
    from devpolicy._core.errors import Diagnostic
    from devpolicy._core.host import Host
    from devpolicy._core.language.merging import ConfigLayer

_ELSEWHERE = frozenset({"component", "extends", "profile"})
"""Where `prefer` may be written instead of the top."""


class Read(NamedTuple):
    """The values of one table."""

    top: ResolvedPolicy
    components: tuple[Component, ...]
    hosts: tuple[tuple[str, Host], ...]
    tests: tuple[PolicyTest, ...]
    findings: list[Diagnostic]

    @property
    def errors(self) -> list[Diagnostic]:
        """Those of the findings that are errors."""
        return [finding for finding in self.findings if finding.severity == "error"]


def read_settings(
    layer: ConfigLayer,
    names: Mapping[str, DeviceClass | None],
    table: type[SettingsTable],
    what: str,
    *,
    partial: bool = True,
) -> Read:
    """Read the keys of one layer by their table, with what is wrong; a `partial` one may lack keys that others set."""
    findings: list[Diagnostic] = []
    data = layer.data
    cursor = Cursor(layer.origins, layer.path, findings, names=names)
    label = f"a key of {what}" if table is ProfileTable else "a key of a policy"
    elsewhere = bool(data.keys() & _ELSEWHERE)
    keys = read_as(table, data, cursor, what=what, label=label, partial=partial or elsewhere)
    if "devices" in data:
        read_classes(data["devices"], cursor.at("devices"))
    rules = read_rules(keys.offload, keys.rule, cursor)
    top = ResolvedPolicy(
        prefer=keys.prefer or (),
        overflow=keys.overflow,
        avoid=keys.avoid,
        split=keys.split,
        ties=keys.ties,
        relax=keys.relax,
        rules=rules,
        memory=keys.memory.rules,
        disk_path=keys.memory.disk_path,
        workload=keys.workload,
        loading=keys.loading,
        require=keys.require,
        prefer_place=layer.origins.place((*layer.path, "prefer"), "key"),
    )
    whole = keys if isinstance(keys, TopTable) else TopTable()
    read = Read(
        top,
        components=() if keys.component is None else read_components(keys.component, cursor.at("component"), rules),
        hosts=() if whole.host is None else read_hosts(whole.host, cursor.at("host")),
        tests=() if whole.test is None else read_tests(whole.test, cursor.at("test")),
        findings=findings,
    )
    if not partial and whole.profile is None and not read.errors:
        told_where(read.components, top.prefer, cursor)
    _check_workloads(read, cursor)
    _lint({"prefer": top.prefer, "overflow": top.overflow, "avoid": top.avoid}, top.avoid, cursor)
    for entry in read.components:
        own = {"prefer": entry.prefer or (), "overflow": entry.overflow or (), "avoid": entry.avoid}
        _lint(own, (*top.avoid, *entry.avoid), cursor.at("component", entry.name))
    return read


def _check_workloads(read: Read, cursor: Cursor) -> None:
    """Collect DP106 where an answer is as long as the sequence that has to hold it."""
    top = read.top.workload
    said = [(top.context, top.new_tokens, cursor.at("workload"))]
    for entry in read.components:
        own = entry.workload
        if own is not None and (own.context is not None or own.new_tokens is not None):
            context = top.context if own.context is None else own.context
            answer = top.new_tokens if own.new_tokens is None else own.new_tokens
            said.append((context, answer, cursor.at("component", entry.name, "workload")))
    for given, answer, here in said:
        context = given.min if isinstance(given, ContextRange) else given
        if context is not None and answer is not None and answer >= context:
            message = f"an answer of {answer} tokens leaves no room for a prompt in a context of {context}"
            hint = "`context` is prompt and answer together: make it larger than `new_tokens`"
            here.at("new_tokens").error("DP106", message, label="too many", help=hint)


def _lint(said: Mapping[str, Sequence[DeviceSelector]], avoid: Sequence[DeviceSelector], cursor: Cursor) -> None:
    """Collect DP503 for terms of a table that an earlier one includes, or that `avoid` rules out."""
    for name, terms in said.items():
        here = cursor.at(name)
        for index, term in enumerate(terms):
            at = here.at(index)
            before = next((other for other in terms[:index] if _includes(other, term)), None)
            avoided = name != "avoid" and any(_includes(other, term) for other in avoid)
            if before is not None:
                hint = f"`{before}` comes before it and includes it" if before != term else "it is listed before"
                _warn(at, term, "without effect", hint)
            elif avoided:
                _warn(at, term, "never used", "`avoid` rules it out")


def _warn(cursor: Cursor, term: DeviceSelector, label: str, note: str) -> None:
    cursor.error("DP503", f"`{term}` is never used here", label=label, notes=[note], severity="warning")


def _includes(one: DeviceSelector, other: DeviceSelector) -> bool:
    """Whether what fits as `other` always fits as `one`."""
    broad = one.id is None and one.device_class is None and not one.count and not one.same
    return one == other or (one.type == other.type and broad)
