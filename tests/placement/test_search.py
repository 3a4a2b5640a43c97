"""The search for the main device: what is kept elsewhere runs there, so each choice costs something else."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import loads, partitions
from tests.worlds import budgets, machine, make_plan, planned, where

from devpolicy import Accelerator, Host, ModelTree, Unsatisfiable
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Rule, Workload
from devpolicy._core.model.tree import Module, Tensor


def _row(sizes: list[int]) -> ModelTree:
    modules = [Module(f"m{at}", "Linear", (Tensor("weight", (size,), "int8"),)) for at, size in enumerate(sizes)]
    return ModelTree("row", (Module("", "Row"), *modules))


def _best(sizes: list[int], kept: set[int], caps: list[int]) -> Fraction | None:
    """The least peak over all main devices and all partitions: the main one runs the first of what is not kept."""
    left = [size for at, size in enumerate(sizes) if at not in kept]
    streaming = max((sizes[at] for at in kept), default=0)
    peaks = []
    for main in range(len(caps)):
        for ends in partitions(len(left), len(caps) - main):
            held = loads(left, ends)
            if kept and not ends[0]:
                continue
            held[0] += streaming
            used = [at for at, (start, end) in enumerate(zip((0, *ends), ends, strict=False)) if end > start]
            if all(held[at] <= caps[main + at] for at in used):
                peaks.append(max((Fraction(held[at], caps[main + at]) for at in used if caps[main + at]), default=0))
    return min((Fraction(peak) for peak in peaks), default=None)


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=6),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.data(),
)
def test_the_peak_is_the_least_over_all_main_devices(sizes: list[int], caps: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.integers(0, len(sizes) - 1), max_size=len(sizes) - 1))
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),),
        split="balanced",
        rules=tuple(Rule(f"rule {at}", (Pattern(f"m{at}"),), offload=(DeviceSelector("cpu"),)) for at in kept),
        memory=tuple(
            MemoryRule(DeviceSelector("cuda", at), "total", Amount(cap), Amount(), activations=Amount())
            for at, cap in enumerate(caps)
        ),
        workload=Workload(context=1),
    )
    host = Host([Accelerator("cuda", memory="1 GiB") for _ in caps], memory="64 GiB")
    best = _best(sizes, kept, caps)
    try:
        plan = make_plan(policy, _row(sizes), host, advise=False)
    except Unsatisfiable:
        assert best is None
        return
    if best is None:  # devices in another order, or with several runs
        order = [unit.runs_on.id or 0 for unit in plan.placements.values() if unit.device == unit.runs_on]
        assert order != sorted(order)
        return
    running = [budget for device, budget in plan.ledger.items() if device != "cpu"]
    assert max((Fraction(one.used, one.cap) for one in running if one.cap), default=Fraction(0)) == best


def test_in_balance_the_main_device_runs_something() -> None:
    # Without streaming 10 bytes for `m1` nothing at all on cuda:0 would be the most even, but the map has to name it.
    text = budgets('prefer = "cuda"\nsplit = "balanced"\n[offload]\nm1 = "cpu"\n', cuda=30)
    assert where(planned(text, _row([5, 10, 5]), machine("cuda", "cuda"))) == {
        "m0": "cuda:0",
        "m1": "cpu",
        "m2": "cuda:1",
    }
