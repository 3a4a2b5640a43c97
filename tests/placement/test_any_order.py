"""Devices in any order, several runs on a device, and rules that name several devices."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import oracle
from tests.worlds import make_plan

from devpolicy import Accelerator, Host, ModelTree, Plan, Unsatisfiable
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Rule, Split, Workload
from devpolicy._core.model.tree import Module, Tensor

SPLITS: tuple[Split, ...] = ("when-needed", "balanced", "fastest")
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=6)
BUDGETS = st.lists(st.integers(1, 30), min_size=1, max_size=3)


def _tree(sizes: list[int]) -> ModelTree:
    units = (Module(f"u{at}", "Linear", (Tensor("w", (size,), "int8"),)) for at, size in enumerate(sizes))
    return ModelTree("units", (Module("", "Model"), *units))


def _planned(
    sizes: list[int], budgets: list[int], split: Split = "when-needed", *, spill: bool = False, **lists: list[int]
) -> Plan | None:
    """Plan units of these bytes on devices of these budgets; `lists` name for a unit the devices of its rule."""
    memory = tuple(
        MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, budget in enumerate(budgets)
    )
    rules = tuple(
        Rule(f"of {path}", (Pattern(path),), prefer=tuple(DeviceSelector("cuda", number) for number in numbers))
        for path, numbers in lists.items()
    )
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),),
        overflow=(DeviceSelector("cpu"),) if spill else (),
        split=split,
        rules=rules,
        memory=memory,
        workload=Workload(context=2),
    )
    host = Host([Accelerator("cuda", memory="1 GiB") for _ in budgets], memory="64 GiB", disk="1 TiB")
    try:
        return make_plan(policy, _tree(sizes), host, advise=False)
    except Unsatisfiable:
        return None


def _devices(plan: Plan) -> list[str]:
    return [str(unit.device) for unit in plan.placements.values()]


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[int], list[int], dict[str, list[int]]]:
    """Sizes, budgets, and for some units the devices of their rules."""
    sizes, budgets = draw(SIZES), draw(BUDGETS)
    devices = st.lists(st.sampled_from(range(len(budgets))), min_size=1, max_size=3, unique=True)
    ruled = draw(st.dictionaries(st.sampled_from([f"u{at}" for at in range(len(sizes))]), devices))
    return sizes, budgets, ruled


@given(SIZES, BUDGETS, st.sampled_from(SPLITS), st.booleans())
def test_a_placement_that_exists_is_found(sizes: list[int], budgets: list[int], split: Split, spill: bool) -> None:
    plan = _planned(sizes, budgets, split, spill=spill)
    if oracle.any_fits(sizes, budgets):
        assert plan is not None
        assert "cpu" not in _devices(plan)
    for device, budget in plan.ledger.items() if plan else ():
        assert budget.used <= budget.cap, device


@given(lists(), st.sampled_from(SPLITS))
def test_lists_of_rules_are_part_of_the_search(
    world: tuple[list[int], list[int], dict[str, list[int]]], split: Split
) -> None:
    sizes, budgets, ruled = world
    allowed = [ruled.get(f"u{at}", list(range(len(budgets)))) for at in range(len(sizes))]
    plan = _planned(sizes, budgets, split, **ruled)
    assert (plan is not None) == oracle.any_fits(sizes, budgets, allowed)
    if plan is not None:
        for at, numbers in enumerate(allowed):
            assert plan.placements[f"u{at}"].device.id in numbers
            assert plan.placements[f"u{at}"].rule == (f"of u{at}" if f"u{at}" in ruled else "prefer")


@given(lists(), st.sampled_from(SPLITS), st.data())
def test_more_memory_never_refuses(
    world: tuple[list[int], list[int], dict[str, list[int]]], split: Split, data: st.DataObject
) -> None:
    sizes, budgets, ruled = world
    if _planned(sizes, budgets, split, **ruled) is None:
        return
    at = data.draw(st.integers(0, len(budgets) - 1))
    more = data.draw(st.integers(1, 10))
    grown = [budget + more * (number == at) for number, budget in enumerate(budgets)]
    assert _planned(sizes, grown, split, **ruled) is not None
    assert _planned(sizes, [*budgets, more], split, **ruled) is not None


@pytest.mark.parametrize("budgets", [[5, 12, 8], [7, 12, 8], [12, 8, 5]])
def test_more_memory_on_the_first_device_of_a_list(budgets: list[int]) -> None:
    every: dict[str, Any] = {f"u{at}": [0, 1, 2] for at in range(5)}
    assert _planned([6, 8, 5, 5, 1], budgets, **every) is not None


def test_a_rule_takes_a_later_device_where_the_first_is_needed() -> None:
    plan = _planned([6, 3], [7, 4], u1=[0, 1], split="never")
    assert plan is not None
    assert _devices(plan) == ["cuda:0", "cuda:1"]


def test_the_first_device_of_a_list_is_taken_where_it_does() -> None:
    plan = _planned([2, 3], [7, 4], u1=[1, 0])
    assert plan is not None
    assert _devices(plan) == ["cuda:0", "cuda:1"]


def test_alike_units_have_as_few_runs_as_devices() -> None:
    plan = _planned([2] * 20 + [9], [9, 41, 9])
    assert plan is not None
    devices = _devices(plan)
    assert sum(one != other for one, other in pairwise(devices)) == len(set(devices)) - 1


def test_own_tensors_of_the_model_are_on_its_lowest_device() -> None:
    root = Module("", "Model", (Tensor("w", (4,), "int8"),))
    units = (Module(f"u{at}", "Linear", (Tensor("w", (8,), "int8"),)) for at in range(2))
    tree = ModelTree("own", (root, *units))
    memory = tuple(
        MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, budget in enumerate((14, 14))
    )
    for split in SPLITS:
        policy = ResolvedPolicy(prefer=(DeviceSelector("cuda"),), split=split, memory=memory)
        host = Host([Accelerator("cuda", memory="1 GiB", bandwidth=10**rate) for rate in (7, 9)], memory="64 GiB")
        plan = make_plan(policy, tree, host, advise=False)
        assert str(plan.placements[""].device) == min(_devices(plan)), split
