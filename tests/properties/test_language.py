"""The engine reads a policy as the oracle does: conditions and classes of devices, on any host."""

from __future__ import annotations

import dataclasses

import tomli
from hypothesis import event, given
from hypothesis import strategies as st
from tests import oracle

from devpolicy import Host, Policy
from devpolicy.errors import Unsatisfiable
from devpolicy.host import SOFTWARE
from devpolicy.language.conditions import check_requirements
from devpolicy.language.policy import Rule
from devpolicy.placement.seats import find
from devpolicy.testing.strategies import faulty_hosts, hosts
from devpolicy.testing.strategies.policies import policy_texts

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
def test_requirements_hold_and_rules_apply_where_the_oracle_says_so(text: str, host: Host) -> None:
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
    policy = Policy.parse(text)
    for term in policy.prefer:
        try:
            found = find(term, policy, host)
        except Unsatisfiable as refused:
            assert refused.code == "DP306"
            continue
        wanted = oracle.serving(policy, host, term)
        if isinstance(wanted, str):
            assert not found.seats
            assert wanted in found.reason
        else:
            assert [seat.device.id or 0 for seat in found.seats] == [number or 0 for number in wanted]
