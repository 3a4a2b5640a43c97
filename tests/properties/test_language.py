"""The engine reads a policy as the oracle does: conditions and classes of devices, on any host."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import tomli
from hypothesis import event, given
from hypothesis import strategies as st
from tests import oracle

from devpolicy import Host, Policy, PolicyError
from devpolicy._core.host import SOFTWARE
from devpolicy._core.language.conditions import check_requirements
from devpolicy._core.language.policy import Rule
from devpolicy._core.placement.context import select_devices
from devpolicy._core.strategies.policies import policy_texts
from devpolicy._core.toml.writer import write_key, write_value
from devpolicy.errors import Unsatisfiable
from devpolicy.testing.strategies import faulty_hosts, hosts

VERSIONS = st.dictionaries(st.sampled_from(SOFTWARE), st.sampled_from(["2.6.0", "2.13.0+cu130", "2.7.0a0", "3.1"]))
HOSTS = st.builds(
    lambda host, versions, system: dataclasses.replace(host, versions=versions, os=system),
    hosts() | hosts(max_accelerators=4) | faulty_hosts(),
    VERSIONS,
    st.sampled_from(["linux", "macos", "windows"]),
)


def meets(policy: Policy, host: Host) -> bool:
    try:
        check_requirements([policy.require], host)
    except Unsatisfiable as refused:
        assert {finding.code for finding in refused.diagnostics} == {"DP304"}
        assert all(finding.place and finding.notes for finding in refused.diagnostics)
        return False
    return True


@given(policy_texts(), HOSTS)
def test_requirements_hold_where_the_oracle_says_so(text: str, host: Host) -> None:
    policy, data = Policy.parse(text), tomli.loads(text)
    assert meets(policy, host) == oracle.holds(data.get("require", {}), host)
    applying = {rule.name for rule in policy.for_host(host).rules}
    for number, (rule, written) in enumerate(zip(_own(policy), data.get("rule", []), strict=True), start=1):
        event(f"rule with when: {'when' in written}")
        assert rule.name == written.get("name", f"rule {number}")
        assert (rule.name in applying) == oracle.holds(written.get("when", {}), host)


def _own(policy: Policy) -> list[Rule]:
    return [rule for rule in policy.rules if not rule.name.startswith("offload.")]


@given(policy_texts(), HOSTS)
def test_a_term_names_the_devices_that_the_oracle_names(text: str, host: Host) -> None:
    policy = Policy.parse(text).top
    for term in policy.prefer:
        try:
            found = select_devices(term, policy, host)
        except Unsatisfiable as refused:
            assert refused.code == "DP306"
            continue
        wanted = oracle.serving(policy, host, term)
        if isinstance(wanted, str):
            assert not found.devices
            assert wanted in found.reason
        else:
            assert [one.device.id or 0 for one in found.devices] == [number or 0 for number in wanted]


# Overlays.

TOGETHER = {"DP106", "DP201"}
"""What parts that are right by themselves may do to each other: an answer longer than the other's context, a class that
only one of them defines."""


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """What a policy says, or a part of it. Names of rules are left out: two texts must not use one name."""
    data = tomli.loads(draw(policy_texts()))
    some = draw(st.sets(st.sampled_from(sorted(data)))) | {"devices"}
    for rule in data.get("rule", []):
        rule.pop("name", None)
    # Classes are defined where they are used.
    return data if draw(st.booleans()) else {key: value for key, value in data.items() if key in some}


@st.composite
def layered(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A policy that another one extends, that one, and its profiles, some of which apply by themselves."""
    names = draw(st.lists(st.sampled_from(["one", "two", "three"]), max_size=3, unique=True))
    profiles = {name: draw(tables()) for name in names}
    for table in profiles.values():
        table.pop("schema", None)
        when = draw(st.just({}) | st.sampled_from([{"cuda": 1}, {"os": "linux"}, {"cuda": "<2"}, {"mps": "==0"}]))
        env = draw(st.just({}) | st.sampled_from([{"env": {"CI": True}}, {"env": {"CI": False}}]))
        if when or env:
            table["when"] = {**when, **env}
    return {"prefer": "cpu", **draw(tables())}, draw(tables()), profiles


def written(data: dict[str, Any]) -> str:
    return "".join(f"{write_key(key)} = {write_value(value)}\n" for key, value in data.items())


def rules_of(layers: list[dict[str, Any]], devices: dict[str, Any]) -> list[Rule]:
    """The rules of several layers, nearest first; an entry of `[offload]` replaces one of a weaker layer."""
    found: list[Rule] = []
    taken: set[str] = set()
    for layer in reversed(layers):
        own = {key: layer[key] for key in layer if key in ("rule", "offload")}
        rules = Policy.parse(written({"prefer": "cpu", "devices": devices, **own})).rules
        found += [rule for rule in rules if rule.name not in taken]
        taken |= {rule.name for rule in rules if rule.name.startswith("offload.")}
    return found


def meaning(rules: Iterable[Rule]) -> list[Rule]:
    """Rules without the names that they have where none is given."""
    return [dataclasses.replace(rule, name="") for rule in rules]


@given(layered(), HOSTS, st.sampled_from([{}, {"CI": "1"}]), st.sampled_from([None, "never", "balanced"]), st.data())
def test_texts_are_laid_over_each_other_as_the_oracle_does(
    texts: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
    host: Host,
    environment: dict[str, str],
    split: str | None,
    data: st.DataObject,
) -> None:
    base, top, profiles = texts
    asked = data.draw(st.sampled_from([None, *profiles]))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "base.toml").write_text(written(base), encoding="utf-8")
        text = written({"extends": "base.toml", **top, **({"profile": profiles} if profiles else {})})
        Path(folder, "top.toml").write_text(text, encoding="utf-8")
        try:
            policy = Policy.load(f"{folder}/top.toml")
        except PolicyError as refused:
            assert {finding.code for finding in refused.diagnostics if finding.severity == "error"} <= TOGETHER
            event("the parts do not go together")
            return
    names = oracle.applying(profiles, host, environment, asked)
    by_itself = [name for name in names if name != asked]
    clash = any(oracle.keys_set(profiles[a]) & oracle.keys_set(profiles[b]) for a, b in combinations(by_itself, 2))
    overrides = [f"split={split}"] if split else []
    try:
        got = policy.for_host(host, profile=asked, overrides=overrides, environment=environment)
    except Unsatisfiable as refused:
        assert refused.code == "DP305"
        assert clash
        event("profiles clash")
        return
    except PolicyError as refused:
        assert {finding.code for finding in refused.diagnostics if finding.severity == "error"} <= TOGETHER
        return
    assert not clash
    event(f"{len(names)} profiles")
    layers = [base, top, *(profiles[name] for name in names), *([{"split": split}] if split else [])]
    layers = [{key: value for key, value in layer.items() if key != "when"} for layer in layers]
    whole: dict[str, Any] = {}
    for layer in layers:
        whole = oracle.laid(whole, layer)
    wanted = Policy.parse(written({key: value for key, value in whole.items() if key not in ("rule", "offload")}))
    for key in ("prefer", "overflow", "avoid", "split", "ties", "workload", "require"):
        assert getattr(got, key) == getattr(wanted, key), key
    assert set(got.memory) == set(wanted.memory)
    rules = rules_of(layers, whole.get("devices", {}))
    assert meaning(got.rules) == meaning(rule for rule in rules if rule.when is None or not rule.when.unmet(host))
    assert got.for_host(host) == got
