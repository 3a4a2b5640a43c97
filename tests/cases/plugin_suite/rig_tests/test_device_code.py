"""The suite of a user: no import of devpolicy but its public names."""

from __future__ import annotations

import threading
import unittest

import pytest
from device_code import largest_card
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Host

torch = pytest.importorskip("torch")


@pytest.fixture
def cards() -> int:
    """A fixture of the test's own scope sees the simulated host too."""
    return torch.cuda.device_count()


@pytest.mark.host("2x24gb")
def test_a_mark_is_enough(cards):
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == cards == 2


def test_without_a_mark_it_is_this_machine_again():
    assert Host.probe().name is None


@pytest.mark.hosts("cpu-only", "macbook-m3-36gb", "2x24gb", "8x80gb")
def test_the_code_finds_a_device_that_the_host_has(simulated_host):
    names = {"cpu", "mps", *(f"{one.type}:{one.id}" for one in simulated_host.accelerators)}
    assert largest_card() in names


@pytest.mark.host("rig.toml")
def test_a_host_of_the_projects_own(simulated_host):
    assert simulated_host.name == "rig"
    assert largest_card() == "cuda:0"


@pytest.mark.hosts("cpu-only", "4x80gb")
class TestOfAClass:
    def test_every_test_of_it_runs_on_each(self, simulated_host):
        assert torch.cuda.device_count() == len(simulated_host.accelerators)

    @pytest.mark.host("1x8gb")
    def test_a_mark_of_its_own_is_nearer(self):
        assert torch.cuda.device_count() == 1


@pytest.mark.hosts("1x24gb", "2x24gb")
@settings(deadline=None)
@given(st.integers(0, 7))
def test_the_examples_of_a_property_see_the_host(simulated_host, index):
    assert (index < torch.cuda.device_count()) == (index < len(simulated_host.accelerators))


@pytest.mark.host("2x24gb")
def test_threads_see_it():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.cuda.device_count()))
    thread.start()
    thread.join()
    assert seen == [2]


class TestOfUnittest(unittest.TestCase):
    @pytest.mark.host("8x80gb")
    def test_a_test_case_takes_one_host(self):
        self.assertEqual(torch.cuda.device_count(), 8)
