"""The mission, for every policy and every host, sound or faulty: what is chosen is there, allowed, sound and large
enough, every consumer can take it, or the refusal names the reason of each term."""

from __future__ import annotations

import itertools
import json
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tests import oracle
from tests.worlds import block_trees

from devpolicy import Accelerator, ComponentDevice, DevPolicyWarning, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy import resolve as resolve_with_warnings
from devpolicy.errors import DeviceError, PolicyError
from devpolicy.language.policy import Term
from devpolicy.placement.planner import make_plan
from devpolicy.sizes import MIB
from devpolicy.testing import host_catalogue, simulate_host
from devpolicy.testing.strategies import faulty_hosts, hosts, model_trees, policies

POLICIES = policies() | policies(hostile=True)
# Small ones too, so that budgets bind for models of a few bytes: headroom takes 1 GiB of each card.
HOSTS = hosts() | faulty_hosts() | hosts(memory=[256 * MIB, 1300 * MIB, 2048 * MIB], ram=[0, 512 * MIB, 4096 * MIB])
# Ids and types that the host does not have are what `policies` writes already; these are of what it may have.
AVOIDED = st.lists(
    st.sampled_from([Term("cpu"), Term("cuda"), Term("cuda", 0), Term("xpu", 0), Term("mps")]), max_size=2
)
TREES = block_trees() | model_trees()


def resolve(policy: Policy, host: Host, **options: Any) -> ComponentDevice:
    """Resolve; that rules are not applied without a model is a warning, and not the matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevPolicyWarning)
        return resolve_with_warnings(policy, host, **options)


def reasons(refused: Unsatisfiable) -> dict[str, str]:
    """What a refusal says of each term of `prefer`, by the term as it was written."""
    notes = [note.partition(": ") for finding in refused.diagnostics for note in finding.notes]
    return {term.strip("`"): reason for term, _, reason in notes}


# The device choice.


@given(POLICIES, HOSTS, AVOIDED)
def test_the_choice_is_the_first_term_that_serves_or_the_refusal_says_why_each_does_not(
    policy: Policy, host: Host, avoid: list[Term]
) -> None:
    policy = replace(policy, avoid=(*policy.avoid, *avoid))
    found = [(term, oracle.serving(policy, host, term)) for term in policy.prefer]
    serving = [(term, ids) for term, ids in found if isinstance(ids, list)]
    try:
        device = resolve(policy, host, target="hf")
    except Unsatisfiable as refused:
        event("refused")
        assert not serving
        assert refused.code == "DP301"
        told = reasons(refused)
        for term, reason in {str(term): reason for term, reason in found}.items():
            assert str(reason) in told[term]
        return
    term, ids = serving[0]
    event(f"chose {term.type}")
    chosen = device.to_dict()["device"]
    if term.type in ("cpu", "mps"):
        assert chosen == term.type
    else:
        assert chosen == f"{term.type}:{ids[0]}"


@given(POLICIES, HOSTS, AVOIDED)
def test_the_choice_for_a_consumer_is_one_that_it_can_run_on(policy: Policy, host: Host, avoid: list[Term]) -> None:
    policy = replace(policy, avoid=(*policy.avoid, *avoid))
    takes = {"spacy": ("cuda", "cpu"), "haystack": ("cuda", "xpu", "mps", "cpu")}
    for consumer, types in takes.items():
        with suppress(Unsatisfiable):
            device = resolve(policy, host, target=consumer)
            assert device.to_torch_str().partition(":")[0] in types
            if consumer == "spacy":
                assert isinstance(device.to_spacy(), int)


# The plan.


def planned(policy: Policy, tree: ModelTree, host: Host) -> Plan | None:
    """The plan, or nothing where it is refused, with a reason for each term that was tried."""
    try:
        return make_plan(policy, tree, host, advise=False)
    except PolicyError as refused:  # a rule that names a tensor
        assert refused.code == "DP203"
    except Unsatisfiable as refused:
        event(f"refused: {refused.code}")
        told = str(refused)
        for term in policy.prefer if refused.code == "DP301" else ():
            assert f"`{term}`" in told
            assert reasons(refused).get(str(term)), f"`{term}` is refused without a reason"
    return None


@given(POLICIES, TREES, HOSTS, AVOIDED)
def test_what_runs_is_on_devices_that_are_there_allowed_and_sound(
    policy: Policy, tree: ModelTree, host: Host, avoid: list[Term]
) -> None:
    policy = replace(policy, avoid=(*policy.avoid, *avoid))
    plan = planned(policy, tree, host)
    if plan is None:
        return
    running = {unit.runs_on for unit in plan.placements.values()}
    event(f"runs on {sorted({device.type.value for device in running})}")
    for device in running:
        kind, number = device.type.value, 0 if device.type.value == "mps" else device.id
        assert not oracle.avoided(policy, kind, number)
        if kind != "cpu":
            (there,) = (one for one in host.accelerators if (one.type, one.id) == (kind, number))
            assert there.fault is None
            assert host.fault(kind) is None


@given(POLICIES, TREES, HOSTS)
def test_no_device_is_given_more_than_the_host_has_of_it(policy: Policy, tree: ModelTree, host: Host) -> None:
    plan = planned(policy, tree, host)
    if plan is None:
        return
    context = policy.workload.context or min(4096, tree.context or 4096)
    if policy.workload.dtype or policy.workload.kv_dtype or policy.workload.new_tokens:
        return  # the recount reads none of them
    held = oracle.recount(plan, tree, context, policy.workload.batch)
    total = {rule.term for rule in policy.memory if rule.basis == "total"}
    shared = 0
    for one in host.accelerators:
        name = one.type if one.type == "mps" else f"{one.type}:{one.id}"
        basis = one.memory if total & {Term(one.type), Term(one.type, one.id)} else one.free
        weights = held.get(name, {}).get("weights", 0)
        assert weights <= basis, name
        shared += weights if one.unified else 0
    on_cpu = held.get("cpu", {}).get("weights", 0)
    assert on_cpu + shared <= (host.memory if Term("cpu") in total or shared else host.free)


# Conversions for every consumer.


def devices_of_a_world(policy: Policy, tree: ModelTree, host: Host) -> list[ComponentDevice]:
    found = []
    with suppress(Unsatisfiable):
        found.append(resolve(policy, host, target="hf"))
    plan = planned(policy, tree, host)
    return found if plan is None else [*found, plan.device]


@given(POLICIES, TREES, HOSTS)
def test_a_chosen_device_survives_the_form_that_is_saved(policy: Policy, tree: ModelTree, host: Host) -> None:
    for device in devices_of_a_world(policy, tree, host):
        again = ComponentDevice.from_dict(json.loads(json.dumps(device.to_dict(), sort_keys=True)))
        assert again == device
        assert str(again.first_device) == str(device.first_device) or device.has_multiple_devices


@given(POLICIES, TREES, HOSTS)
def test_hugging_face_is_given_numbers_for_cuda_and_text_for_the_rest(
    policy: Policy, tree: ModelTree, host: Host
) -> None:
    ids = {one.id for one in host.devices("cuda")}
    for device in devices_of_a_world(policy, tree, host):
        form = device.to_hf()
        values = list(form.values()) if isinstance(form, dict) else [form]
        for value in values:
            if isinstance(value, int):
                assert value in ids
            else:
                assert value.partition(":")[0] in ("cpu", "disk", "mps", "xpu") or not isinstance(form, dict)
        assert device.update_hf_kwargs({}, overwrite=True) in ({"device": form}, {"device_map": form})


@given(POLICIES, TREES, HOSTS)
def test_a_single_device_is_torchs_and_a_map_is_none(policy: Policy, tree: ModelTree, host: Host) -> None:
    torch = pytest.importorskip("torch")
    for device in devices_of_a_world(policy, tree, host):
        if device.has_multiple_devices:
            with pytest.raises(DeviceError, match="single devices"):
                device.to_torch()
        else:
            assert str(device.to_torch()) == device.to_torch_str()
            assert ComponentDevice.from_str(str(torch.device(device.to_torch_str()))) == device


@given(POLICIES, TREES, HOSTS)
def test_spacy_is_given_a_number_or_the_refusal_names_the_device(policy: Policy, tree: ModelTree, host: Host) -> None:
    for device in devices_of_a_world(policy, tree, host):
        if device.has_multiple_devices:
            continue
        text = device.to_torch_str()
        kind, _, number = text.partition(":")
        if kind == "xpu":
            with pytest.raises(DeviceError, match=text):
                device.to_spacy()
        else:
            assert device.to_spacy() == {"cpu": -1, "mps": 0, "cuda": int(number or 0)}[kind]


@given(POLICIES, TREES, HOSTS)
@pytest.mark.filterwarnings("ignore:.*is on the disk and comes first:devpolicy.errors.DevPolicyWarning")
def test_haystacks_object_is_the_same_value_and_comes_back(policy: Policy, tree: ModelTree, host: Host) -> None:
    pytest.importorskip("haystack")
    for device in devices_of_a_world(policy, tree, host):
        theirs = device.to_haystack()
        assert theirs.to_dict() == device.to_dict()
        assert theirs.to_hf() == device.to_hf()
        assert ComponentDevice.from_haystack(theirs) == device


# Without a policy: Haystack's own choice.

TYPES = ("cuda", "xpu", "mps")
SWITCHES = ("HAYSTACK_XPU_ENABLED", "HAYSTACK_MPS_ENABLED")


def a_host_with(types: tuple[str, ...]) -> Host:
    return Host([Accelerator(kind, memory="24 GiB") for kind in types], memory="64 GiB")


def both_choose(host: Host) -> tuple[str, str]:
    haystack = pytest.importorskip("haystack.utils")
    with simulate_host(host):
        ours = ComponentDevice.resolve_device(None).to_torch_str()
        return ours, haystack.ComponentDevice.resolve_device(None).to_torch_str()


@pytest.mark.parametrize("types", [pick for size in range(4) for pick in itertools.combinations(TYPES, size)], ids=str)
def test_without_a_policy_the_choice_is_haystacks_for_every_switch(
    monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("DEVPOLICY", raising=False)
    for values in itertools.product((None, "true", "false", "False", ""), repeat=2):
        for switch, value in zip(SWITCHES, values, strict=True):
            if value is None:
                monkeypatch.delenv(switch, raising=False)
            else:
                monkeypatch.setenv(switch, value)
        off = {switch[9:12].lower() for switch, value in zip(SWITCHES, values, strict=True) if value == "false"}
        expected = next((kind for kind in TYPES if kind in types and kind not in off), "cpu")
        ours, theirs = both_choose(a_host_with(types))
        assert ours == theirs
        assert ours.partition(":")[0] == expected


@given(hosts() | faulty_hosts())
def test_without_a_policy_the_choice_is_haystacks_on_every_host(host: Host) -> None:
    pytest.importorskip("torch")
    ours, theirs = both_choose(host)
    assert ours == theirs


@pytest.mark.parametrize("name", host_catalogue())
def test_without_a_policy_the_choice_is_haystacks_on_the_catalogue(name: str) -> None:
    pytest.importorskip("torch")
    ours, theirs = both_choose(Host.load(name))
    assert ours == theirs
