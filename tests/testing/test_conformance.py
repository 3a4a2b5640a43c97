"""Every source of hosts that we have obeys the properties, and each property can fail."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from devpolicy import Accelerator, DevPolicyError, Host
from devpolicy._core.sizes import GIB
from devpolicy.errors import HostError
from devpolicy.testing import host_catalogue, simulate_host
from devpolicy.testing.conformance import (
    DEVICE_CHECKS,
    HOST_CHECKS,
    MACHINE_CHECKS,
    ConformanceError,
    Observed,
    check_host,
    check_machine,
    observe,
)
from devpolicy.testing.strategies import faulty_hosts, hosts

CATALOGUE = host_catalogue()
NAMES = list(CATALOGUE)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_obeys(name: str) -> None:
    assert check_host(lambda: Host.load(name), steady=True).name == name


def test_this_machine_obeys() -> None:
    check_host(Host.probe)


@pytest.mark.parametrize("name", NAMES)
def test_the_probe_obeys_under_simulation(name: str) -> None:
    with simulate_host(name) as host:
        # A neighbour takes memory from one question to the next.
        steady = not any(one.memory_pressure for one in host.accelerators)
        assert check_host(Host.probe, steady=steady) == CATALOGUE[name]


@given(hosts() | faulty_hosts())
def test_generated_hosts_obey(host: Host) -> None:
    check_host(lambda: host, steady=True)


# What the libraries say in this process.


def test_the_libraries_agree_with_the_probe_on_this_machine() -> None:
    check_machine(Host.probe())


@pytest.mark.parametrize("name", NAMES)
def test_the_libraries_agree_with_a_simulated_host(name: str) -> None:
    with simulate_host(name) as host:
        check_machine(host)


@pytest.mark.parametrize(
    ("simulated", "expected", "says"),
    [
        ("2x24gb", "1x24gb", "torch counts 2 of `cuda`, and the host has 1"),
        ("cpu-only", "macbook-m3-36gb", "torch says that `mps` is not available"),
        ("4x80gb", "8x80gb", "torch counts 4 of `cuda`, and the host has 8"),
    ],
)
def test_a_host_that_is_another_machine_is_told_by_torch(simulated: str, expected: str, says: str) -> None:
    pytest.importorskip("torch")
    with simulate_host(simulated), pytest.raises(ConformanceError, match=says):
        check_machine(CATALOGUE[expected])


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"name": "NVIDIA TITAN"}, "torch_names_the_same"),
        ({"capability": (7, 5)}, "torch_gives_the_same_capability"),
        ({"memory": 40 * GIB}, "torch_gives_the_same_memory"),
    ],
)
def test_a_card_that_is_another_one_is_told_by_torch(change: dict[str, Any], check: str) -> None:
    pytest.importorskip("torch")
    host = CATALOGUE["1x24gb"]
    other = replace(host, accelerators=(replace(host.accelerators[0], **change),))
    with simulate_host(host), pytest.raises(ConformanceError, match=rf"1 of \d+ properties.*\n\n`{check}`"):
        check_machine(other)


def test_a_driver_that_raises_is_a_violation_and_no_traceback() -> None:
    pytest.importorskip("torch")
    with simulate_host("faulty/ecc-on-query") as host, pytest.raises(ConformanceError, match="asking raised"):
        check_machine(replace(host, accelerators=tuple(replace(one, fault=None) for one in host.accelerators)))


# Each property can fail. The values' own constructors refuse most of this, so it is put into them afterwards.


def twisted(host: Host = CATALOGUE["2x24gb"], **facts: Any) -> Host:
    host = replace(host)
    for name, value in facts.items():
        object.__setattr__(host, name, value)
    return host


def card(**facts: Any) -> Accelerator:
    made = Accelerator("cuda", 0, memory="24 GiB")
    for name, value in facts.items():
        object.__setattr__(made, name, value)
    return made


BROKEN: dict[str, Host] = {
    "free_within_total": twisted(free=1 << 60),
    "ids_in_order": twisted(accelerators=CATALOGUE["2x24gb"].accelerators[::-1]),
    "memory_where_usable": twisted(accelerators=(Accelerator("cuda", 0, memory=0),)),
    "shared_memory_is_the_machines": Host([Accelerator("cuda", memory="64 GiB", unified=True)], memory="32 GiB"),
    "capability_is_cudas": Host([Accelerator("xpu", memory="16 GiB", capability=(8, 0))], memory="32 GiB"),
    "uuids_differ": Host([Accelerator("cuda", memory="1 GiB", uuid="GPU-1") for _ in range(2)], memory="1 GiB"),
    "faults_say_why": Host(memory="1 GiB", faults={"nvml": "two\nlines"}),
    "versions_are_sorted": twisted(versions=(("torch", "2.13.0"), ("accelerate", "1.15.0"))),
    "reads_back": twisted(versions=(("torch", "2.13.0"), ("torch", "2.12.0"))),
    "is_a_value": twisted(accelerators=list(CATALOGUE["2x24gb"].accelerators)),
    "something_can_be_chosen": twisted(accelerators=(card(id=200),)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_host_that_breaks_a_property_is_told_which(name: str) -> None:
    with pytest.raises(ConformanceError) as failed:
        check_host(lambda: BROKEN[name])
    assert f"`{name}`: " in str(failed.value)
    assert "the host:" in str(failed.value)


def test_a_source_that_changes_each_time_is_told_so() -> None:
    sizes = iter((1, 2))
    with pytest.raises(ConformanceError, match=r"`same_machine_each_time`: .*\n  but these changed: `memory`, 1 and 2"):
        check_host(lambda: Host(memory=next(sizes)))


def test_free_memory_may_change_unless_promised() -> None:
    def source() -> Callable[[], Host]:
        free = iter((1 * GIB, 2 * GIB))
        return lambda: Host(memory=4 * GIB, free=next(free))

    check_host(source())
    with pytest.raises(ConformanceError, match="`same_each_time`"):
        check_host(source(), steady=True)


def test_a_source_that_changes_the_process_is_told_what(monkeypatch: pytest.MonkeyPatch) -> None:
    def meddling() -> Host:
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "0")
        return Host(memory=1)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConformanceError, match="but it changed the environment variables"):
        check_host(meddling)


def test_every_property_of_a_source_is_broken_by_some_test() -> None:
    elsewhere = {"same_machine_each_time", "asking_changes_nothing"}
    assert {check.name for check in HOST_CHECKS} == BROKEN.keys() | elsewhere


def test_names_are_unique_and_claims_are_sentences() -> None:
    checks = [*HOST_CHECKS, *MACHINE_CHECKS, *DEVICE_CHECKS]
    assert len({check.name for check in checks}) == len(checks)
    assert all(" " in check.claim and not check.claim.endswith(".") for check in checks)


def test_a_source_that_gives_no_host_or_raises_is_told_so() -> None:
    def raising() -> Host:
        raise OSError("no such bus")

    with pytest.raises(ConformanceError, match="gave a value of type dict where a host belongs"):
        check_host(lambda: {"memory": 1})  # type: ignore[arg-type, return-value]
    with pytest.raises(ConformanceError, match="the source of hosts raised OSError: no such bus"):
        check_host(raising)
    with pytest.raises(HostError, match="no host is named"):
        check_host(lambda: Host.load("2x24g"))


def test_a_failure_is_ours_and_a_failed_assertion() -> None:
    assert issubclass(ConformanceError, DevPolicyError)
    assert issubclass(ConformanceError, AssertionError)


@pytest.fixture(params=[*HOST_CHECKS, *MACHINE_CHECKS, *DEVICE_CHECKS], ids=str)
def one_check(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield request.param


def test_a_check_can_be_run_alone(one_check: Any) -> None:
    if not one_check.possible:
        pytest.skip(f"{one_check.library} is not installed")
    host = Host.probe()
    assert list(one_check.find(observe(lambda: host) if one_check in HOST_CHECKS else host)) == []


def test_observing_asks_twice_and_says_what_changed() -> None:
    hosts_of_two = iter((Host(memory=1), Host(memory=2)))
    assert observe(lambda: next(hosts_of_two)) == Observed(Host(memory=1), Host(memory=2), ())


# The page.

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_page_lists_every_property_with_its_claim() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(check.name, check.claim) for check in (*HOST_CHECKS, *MACHINE_CHECKS, *DEVICE_CHECKS)]


def test_the_failure_on_the_page_is_what_is_printed() -> None:
    card = Accelerator("cuda", memory=0, name="NVIDIA GeForce RTX 4090")
    with pytest.raises(ConformanceError) as failed:
        check_host(lambda: Host([card], memory="64 GiB", name="rig"))
    assert f"```text\n{failed.value}\n```" in PAGE.read_text(encoding="utf-8")


def test_the_examples_on_the_page_pass(pytester: pytest.Pytester) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    pytester.makepyfile(**{f"test_{number}": example for number, example in enumerate(examples)})
    pytester.runpytest_inprocess().assert_outcomes(passed=1 + len(HOST_CHECKS))
