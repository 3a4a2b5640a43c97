"""Budgets: what `[memory]` leaves of each device, in bytes."""

from __future__ import annotations

import pytest
from tests.worlds import device_map, machine, planned, small_llama

from devpolicy import Accelerator, Host, ModelTree, Policy
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.memory.budgets import (
    DeviceBudget,
    accelerator_budget,
    cpu_budget,
    disk_budget,
    pool_reserved,
)
from devpolicy._core.model.tree import Module, Tensor
from devpolicy._core.placement.context import select_devices
from devpolicy._core.verbs import plan_all
from devpolicy.errors import Unsatisfiable

MIB, GIB = 1 << 20, 1 << 30


def _resolved(text: str) -> ResolvedPolicy:
    return Policy.parse(text).top


def _host(*, memory: int = 24 * GIB, free: int | None = None, unified: bool = False) -> Host:
    return Host([Accelerator("cuda", memory=memory, free=free, unified=unified)], memory="64 GiB", disk="100 GiB")


def _budget(text: str, host: Host) -> DeviceBudget:
    return accelerator_budget(host.accelerators[0], _resolved(f'prefer = "cuda"\n{text}'), host)


# What is there.


def test_an_accelerator_keeps_a_gibibyte_and_two_percent() -> None:
    one = _budget("", _host())
    assert (one.cap, one.headroom) == (24 * GIB, GIB + 24 * GIB * 2 // 100)
    assert one.budget == one.cap - one.headroom


def test_the_cpu_gives_nine_tenths_and_the_disk_all() -> None:
    policy, host = (
        _resolved('prefer = "cpu"'),
        Host(memory="64 GiB", free="10 GiB", disk="100 GiB", disk_free="9 GiB"),
    )
    assert (cpu_budget(policy, host).cap, cpu_budget(policy, host).headroom) == (9 * GIB, 0)
    assert (disk_budget(policy, host).cap, disk_budget(policy, host).headroom) == (9 * GIB, 0)


@pytest.mark.parametrize("free", [5 * GIB, 5 * GIB + 1, 5 * GIB + 255 * MIB, 5 * GIB + 256 * MIB - 1])
def test_free_memory_is_taken_down_to_whole_steps(free: int) -> None:
    assert _budget("", _host(free=free)).cap == 5 * GIB
    policy, host = (
        ResolvedPolicy(prefer=(DeviceSelector("cpu"),)),
        Host(memory="64 GiB", free=free, disk="100 GiB", disk_free=free),
    )
    assert (cpu_budget(policy, host).cap, disk_budget(policy, host).cap) == (5 * GIB * 9 // 10, 5 * GIB)


def test_the_basis_is_what_is_free_unless_the_policy_says_total() -> None:
    host = _host(memory=24 * GIB, free=10 * GIB)
    assert _budget('[memory.cuda]\ncap = "50%"\n', host).cap == 5 * GIB
    assert _budget('[memory.cuda]\nbasis = "total"\ncap = "50%"\n', host).cap == 12 * GIB
    odd = _host(memory=24 * GIB + 1, free=GIB)
    assert _budget('[memory.cuda]\nbasis = "total"\n', odd).cap == 24 * GIB + 1, "a total has no steps"


# What the policy says.


@pytest.mark.parametrize(
    ("amount", "wanted"),
    [
        ('"2 GiB"', 2 * GIB),
        ('"2 GB"', 2 * 10**9),
        ('"50%"', 12 * GIB),
        ('"29%"', 24 * GIB * 29 // 100),
        ('"0.5%"', 24 * GIB * 5 // 1000),
        ('["1 GiB", "25%"]', 7 * GIB),
        ('["1 GiB", "1 GiB", "5%", "5%"]', 2 * GIB + 24 * GIB // 10),
        ('"0 B"', 0),
        ('"100%"', 24 * GIB),
        ('"500 GiB"', 24 * GIB),
    ],
)
def test_a_cap_is_an_amount_a_percentage_or_a_list(amount: str, wanted: int) -> None:
    assert _budget(f"[memory]\ncuda = {amount}\n", _host()).cap == wanted


def test_a_headroom_replaces_the_default_one_also_by_nothing() -> None:
    assert _budget('[memory.cuda]\nheadroom = "0 B"\n', _host()).headroom == 0
    assert _budget('[memory.cuda]\nheadroom = ["512 MiB", "1%"]\n', _host()).headroom == 512 * MIB + 24 * GIB // 100


def test_a_headroom_above_the_cap_leaves_nothing() -> None:
    assert _budget('[memory.cuda]\ncap = "1 GiB"\nheadroom = "2 GiB"\n', _host()).budget == -GIB


def test_what_is_said_of_a_device_is_nearer_than_its_type() -> None:
    text = (
        '[memory."cuda:0"]\ncap = "8 GiB"\n'
        '[memory.cuda]\nbasis = "total"\ncap = "9 GiB"\nheadroom = "1 MiB"\nreserve = { kv_cache = "1 GiB" }\n'
    )
    host = Host([Accelerator("cuda", memory="24 GiB", free="0 B") for _ in range(2)], memory="8 GiB")
    policy = _resolved(f'prefer = "cuda"\n{text}')
    first, second = (accelerator_budget(one, policy, host) for one in host.accelerators)
    assert (first.cap, second.cap) == (8 * GIB, 9 * GIB)
    assert first.headroom == second.headroom == MIB
    assert first.kv_cache == second.kv_cache == GIB


def test_a_reserve_replaces_the_derived_figure() -> None:
    tree = small_llama()
    text = 'prefer = "cuda"\n[memory.cuda]\nreserve = {{ kv_cache = "{}", activations = "{}" }}\n'
    ledger = planned(text.format("3 MiB", "5 MiB"), tree, machine("cuda")).ledger["cuda:0"]
    assert (ledger.kv_cache, ledger.activations) == (3 * MIB, 5 * MIB)


# Which devices a term names.


def test_a_term_finds_devices_in_order_or_says_why_none() -> None:
    host = Host(
        [Accelerator("cuda", id=at, memory="8 GiB") for at in (5, 1, 3)], memory="8 GiB", faults={"xpu": "broken"}
    )
    policy = _resolved('prefer = "cuda"\navoid = "cuda:3"')
    assert [str(one) for one in select_devices(DeviceSelector("cuda"), policy, host).devices] == ["cuda:1", "cuda:5"]
    assert (
        select_devices(DeviceSelector("cuda", 2), policy, host).reason
        == "the host has no `cuda:2`, it has `cuda:1`, `cuda:3`, `cuda:5`"
    )
    assert select_devices(DeviceSelector("cuda", 3), policy, host).reason == "`avoid` excludes `cuda:3`"
    assert select_devices(DeviceSelector("mps"), policy, host).reason == "the host has no `mps` device"
    assert select_devices(DeviceSelector("xpu"), policy, host).reason == "the `xpu` driver failed: broken"
    assert select_devices(DeviceSelector("cuda", count=3), policy, host).reason == "needs 3 devices, the host has 2"
    assert (
        select_devices(DeviceSelector("cpu"), _resolved('prefer = "cpu"\navoid = "cpu"'), host).reason
        == "`avoid` excludes `cpu`"
    )


# One pool for both sides.


def test_an_integrated_accelerator_shares_the_pool() -> None:
    host = Host([Accelerator("mps", memory="48 GiB")], memory="32 GiB", free="20 GiB")
    one = accelerator_budget(host.accelerators[0], _resolved('prefer = "mps"'), host)
    assert one.cap == 18 * GIB
    small = _resolved('prefer = "mps"\n[memory.cpu]\ncap = "10 GiB"\nheadroom = "4 GiB"\n')
    assert accelerator_budget(host.accelerators[0], small, host).budget == 6 * GIB


def test_what_one_side_of_a_pool_takes_the_other_lacks() -> None:
    unified = _host(unified=True)
    assert pool_reserved({"cuda:0": 3, "cpu": 4}, unified) == {"cuda:0": 7, "cpu": 7}
    assert pool_reserved({"cuda:0": 3, "cpu": 4}, _host()) == {"cuda:0": 3, "cpu": 4}


def _of(*gib: int) -> ModelTree:
    modules = [Module(f"m{at}", "Linear", (Tensor("weight", (size * GIB,), "int8"),)) for at, size in enumerate(gib)]
    return ModelTree("big", (Module("", "Big"), *modules))


def test_components_share_a_pool_from_both_sides() -> None:
    host = Host([Accelerator("mps", memory="16 GiB")], memory="16 GiB", disk="1 TiB")
    policy = Policy.parse('prefer = ["mps", "cpu"]')
    plans = plan_all(policy, {"a": _of(9), "b": _of(5)}, host)
    assert [device_map(plan) for plan in plans.values()] == [{"": "mps"}, {"": "cpu"}]
    assert plans["b"].ledger["cpu"].used_by_others == 9 * GIB
    with pytest.raises(Unsatisfiable, match="DP301"):
        plan_all(policy, {"a": _of(9), "b": _of(6)}, host)


def test_what_is_kept_on_the_cpu_takes_from_the_shared_device() -> None:
    cards = [Accelerator("xpu", memory="16 GiB"), Accelerator("xpu", memory="16 GiB", unified=True)]
    host = Host(cards, memory="16 GiB")
    text = '[offload]\nm1 = "cpu"\n'
    beside = planned(f'prefer = "xpu:0"\n{text}', _of(9, 4), host).ledger
    assert (beside["xpu:0"].used_by_others, beside["cpu"].used_by_others) == (0, 0)
    shared = planned(f'prefer = "xpu:1"\n{text}', _of(5, 4), host).ledger
    assert (shared["xpu:1"].used_by_others, shared["cpu"].used_by_others) == (4 * GIB, shared["xpu:1"].used - 4 * GIB)
    with pytest.raises(Unsatisfiable, match="DP301"):
        planned(f'prefer = "xpu:1"\n{text}', _of(9, 4), host)


def test_two_sides_of_one_pool_are_not_two_budgets() -> None:
    host = Host([Accelerator("cuda", memory="16 GiB", unified=True) for _ in range(2)], memory="16 GiB")
    with pytest.raises(Unsatisfiable, match="DP301"):
        planned('prefer = "cuda"\nsplit = "balanced"', _of(9, 9), host)
    rules = "".join(f'[[rule]]\nmatch = "m{at}"\nprefer = "cuda:{at}"\n' for at in range(2))
    with pytest.raises(Unsatisfiable, match="shares its memory"):
        planned(f'prefer = "cuda"\n{rules}', _of(9, 9), host)
    assert set(planned(f'prefer = "cuda"\n{rules}', _of(5, 5), host).ledger) == {"cuda:0", "cuda:1"}


def _cards(*cards: tuple[str, str]) -> Host:
    return Host([Accelerator("cuda", memory=memory, name=name) for name, memory in cards], memory="64 GiB")


def _ids(policy: ResolvedPolicy, host: Host) -> list[int | None]:
    return [one.device.id for one in select_devices(policy.prefer[0], policy, host).devices]


def test_devices_that_must_be_alike_are_the_largest_group() -> None:
    host = _cards(("display", "8 GiB"), ("A", "40 GiB"), ("A", "80 GiB"), ("display", "8 GiB"), ("A", "40 GiB"))
    assert _ids(_resolved('prefer = { device = "cuda", same = "name" }'), host) == [1, 2, 4]
    assert _ids(_resolved('prefer = { device = "cuda", same = ["name", "memory"] }'), host) == [0, 3]


# Classes.

CLASSES = """
[devices.big]
type = "cuda"
memory = "40 GiB"
[devices.small]
type = "cuda"
memory = "<40 GiB"
[devices.ours]
type = "cuda"
name = ["A", "B"]
count = 2
same = "name"
"""


def test_a_class_names_devices_by_what_they_are() -> None:
    host = _cards(("A", "24 GiB"), ("B", "80 GiB"), ("C", "40 GiB"), ("B", "80 GiB"))
    assert _ids(_resolved(f'prefer = "big"\n{CLASSES}'), host) == [1, 2, 3]
    assert _ids(_resolved(f'prefer = "big"\navoid = "ours"\n{CLASSES}'), host) == [2]
    assert _ids(_resolved(f'prefer = "ours"\n{CLASSES}'), host) == [1, 3]
    assert _ids(_resolved(f'prefer = {{ device = "big", count = 1 }}\n{CLASSES}'), host) == [1]
    found = select_devices(
        Policy.parse(f'prefer = "small"\n{CLASSES}').prefer[0], ResolvedPolicy(), _cards(("B", "80 GiB"))
    )
    assert found.reason == "no device of the host is `small` (`cuda:0`: it has 80.0 GiB)"


def test_what_is_said_of_a_class_is_nearer_than_a_type() -> None:
    text = (
        f'prefer = "cuda"\n{CLASSES}[memory]\ncuda = "1 GiB"\nbig = "2 GiB"\n"cuda:0" = "3 GiB"\n'
        '[memory.small]\nheadroom = "0 B"\n'
    )
    host = _cards(("A", "80 GiB"), ("A", "80 GiB"), ("A", "24 GiB"))
    devices = select_devices(DeviceSelector("cuda"), _resolved(text), host).devices
    assert [one.cap for one in devices] == [3 * GIB, 2 * GIB, 1 * GIB]
    assert devices[2].headroom == 0


def test_two_classes_that_disagree_on_a_device_are_refused() -> None:
    text = f'prefer = "cuda"\n{CLASSES}[memory]\nbig = "2 GiB"\nours = "{{}}"\n'
    assert [
        one.cap
        for one in select_devices(
            DeviceSelector("cuda"), _resolved(text.format("2 GiB")), _cards(("A", "80 GiB"))
        ).devices
    ]
    with pytest.raises(Unsatisfiable, match="`cuda:0` is of `big` and of `ours`") as refused:
        select_devices(DeviceSelector("cuda"), _resolved(text.format("3 GiB")), _cards(("A", "80 GiB")))
    assert refused.value.code == "DP306"
    assert refused.value.diagnostics[0].place is not None


def test_what_a_device_says_settles_what_classes_disagree_on() -> None:
    """The way out that DP306 names."""
    text = f'prefer = "cuda"\n{CLASSES}[memory]\nbig = "2 GiB"\nours = "3 GiB"\n"cuda:0" = "4 GiB"\n'
    devices = select_devices(DeviceSelector("cuda"), _resolved(text), _cards(("A", "80 GiB"))).devices
    assert [one.cap for one in devices] == [4 * GIB]


def test_a_rule_runs_modules_on_a_class() -> None:
    host = _cards(("A", "24 GiB"), ("B", "80 GiB"))
    text = f'prefer = "cuda"\n{CLASSES}[[rule]]\nmatch = "model.layers.0"\nprefer = "big"\n'
    assert device_map(planned(text, small_llama(), host)) == {"": "cuda:1"}
    with pytest.raises(Unsatisfiable, match="no device of the host is `big`"):
        planned(text, small_llama(), _cards(("A", "24 GiB")))
