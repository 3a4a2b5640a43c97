"""What is there while weights are loaded has room too, and a plan is another one only where it had none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from devpolicy._core.certify import certify
from devpolicy._core.model.tree import Module, Tensor

MIB = 1 << 20
EXACT = '\n[memory.cuda]\nheadroom = "0 GiB"\n[memory.cuda.reserve]\nactivations = "1 MiB"\nkv_cache = "1 MiB"\n'


def mixture(layers: int, *, merged: bool = True) -> ModelTree:
    """Layers of 160 MiB each: experts of 128 and 32 MiB, which loading makes of others."""
    experts = (
        Tensor("gate_up_proj", (128, MIB), "uint8", merged=merged),
        Tensor("down_proj", (32, MIB), "uint8", merged=merged),
    )
    blocks = [
        module
        for layer in range(layers)
        for module in (
            Module(f"layers.{layer}", "Layer"),
            Module(f"layers.{layer}.experts", "Experts", experts, in_place=False),
        )
    ]
    return ModelTree(
        "mixture", (Module("", "Model"), Module("layers", "ModuleList"), *blocks), no_split=frozenset({"Layer"})
    )


def host(*mebibytes: int) -> Host:
    cards = [Accelerator("cuda", memory="24 GiB", free=f"{size} MiB") for size in mebibytes]
    return Host(cards, memory="64 GiB", disk="500 GiB")


def made(tree: ModelTree, there: Host, more: str = "") -> Plan:
    return plan(Policy.parse(f'prefer = "cuda"{more}{EXACT}'), tree, there)


def test_the_ledger_has_what_a_device_holds_while_it_loads() -> None:
    budget = made(mixture(2), host(1024)).ledger["cuda:0"]
    assert (budget.weights, budget.load) == (320 * MIB, 448 * MIB)
    assert (budget.held, budget.loading, budget.used) == (322 * MIB, 126 * MIB, 448 * MIB)
    assert made(mixture(2, merged=False), host(1024)).ledger["cuda:0"].load == 320 * MIB


def test_a_model_that_fits_and_cannot_load_is_refused() -> None:
    made(mixture(3, merged=False), host(512))
    with pytest.raises(Unsatisfiable) as refused:
        made(mixture(3), host(512))
    assert refused.value.code == "DP301"
    assert "256 MiB more on `cuda:0` would do" in str(refused.value)


def test_what_cannot_load_on_one_device_goes_on_two() -> None:
    assert list(made(mixture(3), host(512, 512)).ledger) == ["cuda:0", "cuda:1"]
    kept = made(mixture(3), host(512), '\noverflow = "cpu"')
    assert list(kept.ledger) == ["cuda:0", "cpu"]
    for one in (made(mixture(3), host(512, 512)), kept):
        assert all(budget.free >= 0 for budget in one.ledger.values())


def test_room_for_loading_changes_no_plan_that_has_it() -> None:
    for there in (host(768), host(768, 512), host(1024, 256)):
        assert made(mixture(3), there).digest == made(mixture(3, merged=False), there).digest


def test_what_the_cpu_keeps_is_made_there() -> None:
    policy = 'prefer = "cuda"\n[offload]\n"layers.*" = "cpu"\n[memory.cpu]\nbasis = "free"\ncap = "100%"\n'
    tree = mixture(4)
    rest = Module("head", "Linear", (Tensor("weight", (MIB,), "uint8"),))
    tree = replace(tree, modules=(*tree.modules, rest))
    assert plan(Policy.parse(policy), tree, host(2048)).ledger["cpu"].load == (640 + 128) * MIB
    with pytest.raises(Unsatisfiable):
        plan(Policy.parse(policy), tree, replace(host(2048), memory=1024 * MIB, free=700 * MIB))


def test_a_plan_with_room_for_loading_is_certified() -> None:
    policy = Policy.parse(f'prefer = "cuda"\noverflow = "cpu"{EXACT}')
    tree, there = mixture(3), host(512)
    certificate = certify(plan(policy, tree, there), policy, tree, there)
    assert certificate.bound_ns <= certificate.plan_ns


def test_what_another_component_takes_at_run_time_counts() -> None:
    from devpolicy import plan_all

    policy = Policy.parse('prefer = "cuda"\n[component.a]\n[component.b]\nneeds = "100 MiB"' + EXACT)
    plans = plan_all(policy, {"a": mixture(2)}, host(768))
    assert plans["b"].ledger["cuda:0"].used_by_others == 322 * MIB
