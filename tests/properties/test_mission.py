"""The mission, for every policy and every host, sound or faulty: what is chosen is there, allowed, sound and large
enough, every consumer can take it, or the refusal names the reason of each term."""

from __future__ import annotations

import itertools
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from tests import oracle
from tests.worlds import World, any_worlds, as_policy, make_plan

from devpolicy import Accelerator, ComponentDevice, DevPolicyWarning, Host, Plan, Policy, Unsatisfiable
from devpolicy import resolve as resolve_with_warnings
from devpolicy._core.language.policy import DeviceSelector
from devpolicy._core.sizes import GIB, MIB
from devpolicy.errors import DeviceError, PolicyError
from devpolicy.testing import host_catalogue, simulate_host
from devpolicy.testing.strategies import faulty_hosts, hosts

WORLDS = any_worlds()


def resolve(policy: Policy, host: Host, **options: Any) -> ComponentDevice:
    """Resolve; that rules are not applied without a model is a warning, and not the matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevPolicyWarning)
        return resolve_with_warnings(policy, host=host, **options)


def reasons(refused: Unsatisfiable, policy: Policy) -> list[str]:
    """What a refusal says of each term of `prefer`, in order."""
    (finding,) = refused.diagnostics
    notes = [note.split(": ", 1) for note in finding.notes]
    assert [term for term, _ in notes] == [f"`{term}`" for term in policy.prefer]
    return [reason for _, reason in notes]


# The device choice.


@given(WORLDS)
def test_the_choice_is_the_first_term_that_serves(world: World) -> None:
    policy, host = world.policy, world.host
    found = [(term, oracle.serving(policy, host, term)) for term in policy.prefer]
    serving = [(term, ids) for term, ids in found if isinstance(ids, list)]
    try:
        device = resolve(as_policy(world.policy), host=world.host, target="hf")
    except Unsatisfiable as refused:
        event("refused")
        if refused.code == "DP306":  # two classes that say different things of a device's memory
            return
        assert not serving
        assert refused.code == "DP301"
        for (_, reason), told in zip(found, reasons(refused, policy), strict=True):
            assert str(reason) in told
        return
    term, ids = serving[0]
    event(f"chose {term.type}")
    chosen = device.to_dict()["device"]
    if term.type in ("cpu", "mps"):
        assert chosen == term.type
    else:
        assert chosen == f"{term.type}:{ids[0]}"


@given(WORLDS)
def test_the_choice_for_a_consumer_is_one_that_it_can_run_on(world: World) -> None:
    policy, host = world.policy, world.host
    takes = {"spacy": ("cuda", "mps", "cpu"), "haystack": ("cuda", "xpu", "mps", "cpu")}
    for consumer, types in takes.items():
        with suppress(Unsatisfiable):
            device = resolve(as_policy(policy), host=host, target=consumer)
            assert device.to_torch_str().partition(":")[0] in types
            if consumer == "spacy":
                assert isinstance(device.to_spacy(), int)


# The plan.


def planned(world: World) -> Plan | None:
    """The plan, or nothing where it is refused, with a reason for each term that was tried."""
    try:
        return make_plan(world.policy, world.tree, world.host, advise=False)
    except PolicyError as refused:  # a rule that names a tensor
        assert refused.code == "DP203"
    except Unsatisfiable as refused:
        event(f"refused: {refused.code}")
        if refused.code == "DP301":
            assert all(reasons(refused, world.policy))
    return None


@given(WORLDS)
def test_what_runs_is_on_devices_that_are_allowed_and_sound(world: World) -> None:
    policy, host = world.policy, world.host
    plan = planned(world)
    if plan is None:
        return
    running = {unit.runs_on for unit in plan.placements.values()}
    event(f"runs on {sorted({device.type.value for device in running})}")
    for device in running:
        kind, number = device.type.value, 0 if device.type.value == "mps" else device.id
        assert not oracle.avoided(policy, host, kind, number)
        if kind != "cpu":
            (there,) = (one for one in host.accelerators if (one.type, one.id) == (kind, number))
            assert there.fault is None
            assert host.fault(kind) is None


@given(WORLDS)
def test_no_device_is_given_more_than_the_host_has_of_it(world: World) -> None:
    plan = planned(world)
    if plan is None:
        return
    policy, tree, host = world.policy, world.tree, world.host
    held = {name: oracle.at_most(entry) for name, entry in oracle.recount(plan, tree, policy.workload).items()}
    said = {rule.term for rule in policy.memory}
    shared = 0
    for one in host.accelerators:
        name = one.type if one.type == "mps" else f"{one.type}:{one.id}"
        if any(oracle.meant(term, one) for term in said):
            room = one.memory  # what the policy says of it is another property
        else:
            room = one.free - one.free % (256 * MIB)
            room -= GIB + room * 2 // 100
        assert held.get(name, 0) <= max(0, room), name
        shared += held.get(name, 0) if one.unified else 0
    if said.isdisjoint([DeviceSelector("cpu")]):
        assert held.get("cpu", 0) <= host.free * 9 // 10
    assert held.get("cpu", 0) + shared <= host.memory


# Conversions for every consumer.


def devices_of(world: World) -> list[ComponentDevice]:
    found = []
    with suppress(Unsatisfiable):
        found.append(resolve(as_policy(world.policy), host=world.host, target="hf"))
    plan = planned(world)
    return found if plan is None else [*found, plan.device]


@given(WORLDS)
def test_a_chosen_device_survives_the_form_that_is_saved(world: World) -> None:
    for device in devices_of(world):
        again = ComponentDevice.from_dict(json.loads(json.dumps(device.to_dict(), sort_keys=True)))
        assert again == device
        assert str(again.first_device) == str(device.first_device) or device.has_multiple_devices


@given(WORLDS)
def test_hugging_face_is_given_numbers_for_cuda(world: World) -> None:
    ids = {one.id for one in world.host.devices("cuda")}
    for device in devices_of(world):
        form = device.to_hf()
        values = list(form.values()) if isinstance(form, dict) else [form]
        for value in values:
            if isinstance(value, int):
                assert value in ids
            else:
                assert value.partition(":")[0] in ("cpu", "disk", "mps", "xpu") or not isinstance(form, dict)
        assert device.update_hf_kwargs({}, overwrite=True) in ({"device": form}, {"device_map": form})


@given(WORLDS)
def test_a_single_device_is_torchs_and_a_map_is_none(world: World) -> None:
    torch = pytest.importorskip("torch")
    for device in devices_of(world):
        if device.has_multiple_devices:
            with pytest.raises(DeviceError, match="single devices"):
                device.to_torch()
        else:
            assert str(device.to_torch()) == device.to_torch_str()
            assert ComponentDevice.from_str(str(torch.device(device.to_torch_str()))) == device


@given(WORLDS)
def test_spacy_is_given_a_number_or_the_refusal_names_the_device(world: World) -> None:
    for device in devices_of(world):
        if device.has_multiple_devices:
            continue
        text = device.to_torch_str()
        kind, _, number = text.partition(":")
        if kind == "xpu":
            with pytest.raises(DeviceError, match=text):
                device.to_spacy()
        else:
            assert device.to_spacy() == {"cpu": -1, "mps": 0, "cuda": int(number or 0)}[kind]


@given(WORLDS)
@pytest.mark.filterwarnings("ignore:.*is on the disk and comes first:devpolicy.errors.DevPolicyWarning")
def test_haystacks_object_is_the_same_value_and_comes_back(world: World) -> None:
    pytest.importorskip("haystack")
    for device in devices_of(world):
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
def test_without_a_policy_haystack_chooses_for_every_switch(
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
def test_without_a_policy_haystack_chooses_on_the_catalogue(name: str) -> None:
    pytest.importorskip("torch")
    ours, theirs = both_choose(Host.load(name))
    assert ours == theirs


# What the libraries would have chosen by themselves.


def test_the_record_of_what_libraries_choose_is_up_to_date() -> None:
    for library in ("torch", "accelerate", "transformers", "haystack"):
        pytest.importorskip(library)
    from tests.choices import updated, without_versions

    page = (Path(__file__).parents[2] / "docs" / "library-choices.md").read_text(encoding="utf-8")
    assert without_versions(updated(page)) == without_versions(page), "python -m tests.choices docs/library-choices.md"
