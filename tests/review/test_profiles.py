"""Tests of policies with profiles: those that apply by themselves, and those that a test asks for."""

from __future__ import annotations

import pytest

from devpolicy import Host, ModelTree, Policy
from devpolicy._core.language.properties import Property
from devpolicy._core.review.coverage import deciders
from devpolicy._core.review.host_space import HostSpace
from devpolicy._core.review.outcome import plan_outcome
from devpolicy._core.review.run import Result
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import bind_policy
from devpolicy._core.review.verify import verify
from devpolicy._core.sizes import GIB
from devpolicy.errors import PolicyError

POLICY = """
prefer = ["cuda", "cpu"]

[profile.server]
when  = { cuda = 4 }
split = "balanced"

[profile.quiet]
prefer = "cpu"

[profile.quiet.offload]
lm_head = "disk"

[profile.secret]
when   = { env.QUIET = "1" }
prefer = "cpu"
"""


def result(test: str) -> Result:
    suite = bind_policy(
        Policy.parse(f'{POLICY}\n[[test]]\nname = "t"\nmodel = "llama-3.1-8b"\n{test}\n', "p.toml"), "p.toml"
    )
    (found,) = run_all([suite], jobs=1)
    return found


def test_a_profile_applies_by_itself_on_its_hosts() -> None:
    assert result('host = "4x80gb"\nexpect = { "model.layers.31" = "cuda:3" }').passed
    assert result('host = "2x24gb"\nexpect = "cuda:0"').passed


def test_a_test_asks_for_a_profile() -> None:
    assert result('host = "2x24gb"\nprofile = "quiet"\nexpect = { "model.**" = "cpu" }').passed
    assert result('host = "2x24gb"\nprofile = "quiet"\nby = { lm_head = "offload.lm_head" }').passed


def test_no_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIET", "1")
    monkeypatch.setenv("DEVPOLICY_PROFILE", "quiet")
    assert result('host = "2x24gb"\nexpect = "cuda:0"').passed
    assert result('host = "2x24gb"\nprofile = "secret"\nexpect = "cpu"').passed


def test_two_profiles_that_disagree_are_a_refusal() -> None:
    policy = Policy.parse(f'{POLICY}\n[profile.other]\nwhen = {{ cuda = 2 }}\nsplit = "never"\n')
    refused = plan_outcome(policy, None, Host.load("4x80gb")).refusal
    assert refused is not None
    assert refused.code == "DP305"


def test_what_only_a_profile_says_is_covered_too() -> None:
    assert deciders(Policy.parse(POLICY)) == ["prefer cuda", "prefer cpu", "offload.lm_head"]


def test_every_host_of_a_family_has_its_profiles() -> None:
    space = HostSpace(("cuda",), 4, (24 * GIB,), (100,), (64 * GIB,))
    (found,) = verify(Policy.parse(POLICY), [None], space, [Property("always_resolves")], jobs=1)
    assert (found.status, found.hosts) == ("proved", 5)


def test_a_profile_that_the_policy_lacks_is_told() -> None:
    with pytest.raises(PolicyError) as refused:
        result('host = "2x24gb"\nprofile = "quite"\nexpect = "cpu"')
    (finding,) = refused.value.diagnostics
    assert (finding.code, finding.help) == ("DP202", "did you mean `quiet`?")


def test_components_of_a_profile_are_planned_and_tested() -> None:
    said = 'prefer = "cuda"\n[profile.big]\nwhen = { cuda = 2 }\n[profile.big.component.ranker]\nneeds = "90 GiB"\n'
    text = f'{said}[[test]]\nname = "t"\nhost = "2x24gb"\nalways = "always_resolves"\n'
    (found,) = run_all([bind_policy(Policy.parse(text), "p.toml")], jobs=1)
    assert [failure.got for case in found.cases for failure in case.failures if "ranker" in failure.what]


def test_a_profile_that_nobody_asks_for_need_not_be_reached() -> None:
    text = 'prefer = "cuda"\n[profile.mac]\nprefer = "mps"\n'
    space = HostSpace(("cuda",), 1, (24 * GIB,), (100,), (64 * GIB,))
    wanted = [Property("every_rule_reachable")]
    policy = Policy.parse(text)
    (plain,) = verify(policy, [None], space, wanted, jobs=1)
    (asked,) = verify(policy.with_overrides(profile="mac"), [None], space, wanted, jobs=1)
    assert (plain.status, asked.status) == ("proved", "broken")


def test_a_profile_asked_for_is_nearer_than_automatic_ones() -> None:
    policy = Policy.parse(POLICY).with_overrides(profile="quiet", values=["split=never"])
    there = policy.for_host(Host.load("4x80gb"))
    assert (there.applied, there.split, str(there.prefer[0])) == (("server", "quiet"), "never", "cpu")
    assert there.for_host(Host.load("4x80gb")) == there
    assert policy.for_host(Host.load("4x80gb"), profile="server").applied == ("server",)


IN_A_PROFILE = """
prefer = "cuda"
[profile.extra.component.ranker]
model   = "gpt2"
offload = { "transformer.h.0" = "disk" }
[[test]]
name      = "t"
host      = "2x24gb"
component = "ranker"
expect    = { "transformer.h.0" = "disk" }
by        = { "transformer.h.0" = "component.ranker.offload.transformer.h.0" }
"""


def test_a_test_speaks_of_what_only_its_profile_has() -> None:
    policy = Policy.parse(IN_A_PROFILE + 'profile = "extra"\n')
    (found,) = run_all([bind_policy(policy, "p.toml")], jobs=1)
    assert found.passed


def test_a_test_does_not_speak_of_what_another_profile_has() -> None:
    with pytest.raises(PolicyError, match="the policy has no component `ranker`"):
        bind_policy(Policy.parse(IN_A_PROFILE), "p.toml")


def test_two_profiles_that_spill_elsewhere_are_compared() -> None:
    """An overflow of one more place was a worse plan, also where nothing spilled."""
    text = (
        'prefer = "cpu"\noverflow = ["cpu", "disk"]\n[profile.low]\nwhen = { memory = "<=16 GiB" }\noverflow = "disk"\n'
    )
    space = HostSpace((), 0, (), (100,), (16 * GIB, 64 * GIB))
    (found,) = verify(Policy.parse(text), [ModelTree.load("gpt2")], space, [Property("monotone")], jobs=1)
    assert found.status == "proved"
