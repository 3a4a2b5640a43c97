"""A sample of what `tox run -e placement` runs: plans against every assignment there is."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from tests.placement import growth
from tests.placement.optimum import World, best, drawn, faults, needless, shape

from devpolicy import Unsatisfiable

pytest.importorskip("numpy")


def test_the_oracle_counts_as_the_documentation_states_it() -> None:
    # One unit of 100 bytes that stays, and one that does not: 100 bytes are brought in over the link.
    found = best(World((10**8, 10**8), (0, 0), (2 * 10**8 - 1 + 1,), (10**11,), 10**9))
    assert (found.ns, found.all_stay) == (2e6, True)
    found = best(World((10**8, 10**8), (0, 0), (2 * 10**8 - 1,), (10**11,), 10**9))
    assert (found.ns, found.all_stay) == (None, False)  # the one that is brought in needs room as well


@pytest.mark.parametrize("seed", range(25))
def test_a_small_model_is_placed_as_well_as_can_be(seed: int) -> None:
    assert list(faults(drawn(random.Random(f"sample {seed}"), 5, 3))) == []


@pytest.mark.parametrize("seed", range(15))
def test_nothing_is_offloaded_that_one_device_has_room_for(seed: int) -> None:
    with suppress(Unsatisfiable):  # a few fit nowhere
        assert needless(*shape(random.Random(f"sample {seed}"))) == ""


# The search ended at its bound and offloaded a block for which the device that ran it had room.
@pytest.mark.parametrize("seed", ["0 shape 834", "0 shape 500", "1 shape 1160", "2 shape 1160"])
def test_what_went_comes_back_where_there_is_room(seed: str) -> None:
    assert needless(*shape(random.Random(seed))) == ""


@pytest.mark.parametrize("seed", range(9))
def test_more_memory_or_devices_make_no_plan_worse(seed: int) -> None:
    assert list(growth.faults(f"sample {seed}")) == []
    assert list(growth.faults_of_shape(f"sample {seed}")) == []


# A rule's first device left less room for others, which were offloaded; its second one was tried only after a refusal.
def test_a_rules_list_is_chosen_for_the_least_that_is_offloaded() -> None:
    assert list(growth.faults("0 world 173 grows")) == []


# Ways were counted for four devices, and were too many for five.
def test_one_more_device_takes_no_way_back() -> None:
    assert list(growth.faults_of_shape("1 shape 71 grows")) == []
