"""`split = "fastest"`: least predicted time, counted again by the oracle from the device map alone."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import oracle
from tests.worlds import block_trees, make_plan, small_llama

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Split, Workload
from devpolicy._core.model.tree import Activated, Module, Tensor

SPEEDS = {"link": 10**10, "disk": 3 * 10**9}
Card = tuple[int, int]
"""The bytes of its budget, and its bandwidth in bytes per second, so small that reading takes as long as a crossing."""

CARDS = st.tuples(st.sampled_from((0, 60, 120, 250, 400, 900)), st.sampled_from((10**7, 2 * 10**7, 10**8)))
# Tied units are charged for their way back after the search, so they are left out where exactness is claimed.
TREES = block_trees().map(lambda tree: replace(tree, ties=()))


def _host(cards: list[Card]) -> Host:
    return Host(
        [Accelerator("cuda", memory="1 GiB", bandwidth=rate) for _, rate in cards], memory="64 GiB", disk="1 TiB"
    )


def _policy(cards: list[Card], split: Split, *, overflow: bool = False) -> Policy:
    memory = tuple(
        MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, (budget, _) in enumerate(cards)
    )
    places = (DeviceSelector("cpu"),) if overflow else ()
    workload = Workload(context=2)
    return ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),), overflow=places, split=split, memory=memory, workload=workload
    )


def _planned(tree: ModelTree, cards: list[Card], split: Split = "fastest", *, overflow: bool = False) -> Plan | None:
    try:
        return make_plan(_policy(cards, split, overflow=overflow), tree, _host(cards), advise=False)
    except Unsatisfiable:
        return None


def _latency(plan: Plan, tree: ModelTree, cards: list[Card]) -> Fraction:
    rates = {f"cuda:{at}": rate for at, (_, rate) in enumerate(cards)}
    return oracle.latency(plan, tree, {**SPEEDS, **rates}, context=2)


@given(block_trees(), st.lists(CARDS, min_size=1, max_size=4), st.booleans())
def test_the_prediction_is_what_the_oracle_counts(tree: ModelTree, cards: list[Card], overflow: bool) -> None:
    plan = _planned(tree, cards, overflow=overflow)
    if plan is None:
        return
    assert plan.prediction is not None
    assert abs(plan.prediction.ns - _latency(plan, tree, cards) * 10**9) <= 4
    for device, budget in plan.ledger.items():
        assert budget.used + budget.headroom <= budget.cap, device
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(("batch", "read"), [(1, 4), (3, 12), (10, 40), (11, 40)])
def test_an_embedding_reads_a_row_for_each_sequence(batch: int, read: int) -> None:
    tree = ModelTree("m", (Module("", "M"), Module("embed", "Embedding", (Tensor("weight", (10, 4), "int8"),))))
    card = (100, 10**7)
    policy = replace(_policy([card], "fastest"), workload=Workload(context=2, batch=batch))
    prediction = make_plan(policy, tree, _host([card])).prediction
    assert prediction is not None
    assert prediction.ns == read * 10**9 // card[1]


@given(TREES, st.lists(CARDS, min_size=1, max_size=4), st.booleans())
def test_no_other_split_is_faster(tree: ModelTree, cards: list[Card], overflow: bool) -> None:
    fastest = _planned(tree, cards, overflow=overflow)
    splits: tuple[Split, ...] = ("when-needed", "balanced", "never")
    for split in splits:
        other = _planned(tree, cards, split, overflow=overflow)
        if other is not None:
            assert fastest is not None
            assert _latency(fastest, tree, cards) <= _latency(other, tree, cards)


@given(TREES, st.lists(CARDS, min_size=1, max_size=3), CARDS, st.data())
def test_more_memory_and_one_more_device_never_make_it_slower(
    tree: ModelTree, cards: list[Card], added: Card, data: st.DataObject
) -> None:
    plan = _planned(tree, cards)
    if plan is None:
        return
    at = data.draw(st.integers(0, len(cards) - 1))
    grown = [(budget + 100 * (number == at), rate) for number, (budget, rate) in enumerate(cards)]
    for larger in (grown, [*cards, added], [added, *cards]):
        better = _planned(tree, larger)
        assert better is not None
        assert _latency(better, tree, larger) <= _latency(plan, tree, cards)


@given(TREES, st.lists(CARDS, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_devices_on_a_host_changes_no_time(tree: ModelTree, cards: list[Card], random: object) -> None:
    shuffled = list(cards)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = _planned(tree, cards), _planned(tree, shuffled)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert _latency(one, tree, cards) == _latency(other, tree, shuffled)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from((10**6, 10**7, 10**8))), min_size=1, max_size=2),
)
def test_a_small_model_takes_the_least_time_of_all_assignments(sizes: list[int], cards: list[Card]) -> None:
    units = (Module(f"u{at}", "Linear", (Tensor("w", (size,), "int8"),)) for at, size in enumerate(sizes))
    tree = ModelTree("units", (Module("", "Model"), *units))
    plan = _planned(tree, cards, overflow=True)
    best = _least_time(sizes, cards)
    assert (plan is None) == (best is None)
    if plan is not None and best is not None:
        assert _latency(plan, tree, cards) == best


def _least_time(sizes: list[int], cards: list[Card]) -> Fraction | None:
    """The least time over all assignments to devices and the CPU; something is offloaded only where it must be."""
    times: list[tuple[bool, Fraction]] = []
    for where in product((*range(len(cards)), None), repeat=len(sizes)):
        running = [at for at in where if at is not None]
        away = [size for size, at in zip(sizes, where, strict=True) if at is None]
        if not running:
            continue
        main = min(running)
        held = [sum(size for size, at in zip(sizes, where, strict=True) if at == one) for one in range(len(cards))]
        held[main] += max(away, default=0)
        if any(held[at] > cards[at][0] for at in running):
            continue
        walked = [main if at is None else at for at in where]
        reading = sum((Fraction(size, cards[at][1]) for size, at in zip(sizes, walked, strict=True)), Fraction(0))
        hops = sum(one != other for one, other in pairwise(walked))
        times.append((bool(away), reading + Fraction(sum(away), SPEEDS["link"]) + Fraction(hops * 40_000, 10**9)))
    return min(times, default=(False, None))[1]


def test_a_slow_device_is_left_alone_where_a_fast_one_holds_all() -> None:
    plan = _planned(small_llama(), [(400, 10**7), (400, 10**8)])
    assert plan is not None
    assert plan.device.to_dict() == {"type": "single", "device": "cuda:1"}


def test_the_faster_of_two_devices_holds_as_much_as_it_can() -> None:
    plan = _planned(small_llama(), [(100, 10**7), (130, 10**8)])
    assert plan is not None
    assert plan.ledger["cuda:1"].used > plan.ledger["cuda:0"].used


def test_equal_devices_are_filled_evenly_since_it_costs_no_time() -> None:
    plan = _planned(small_llama(12), [(400, 10**8), (400, 10**8)])
    assert plan is not None
    assert plan.ledger["cuda:0"].used - plan.ledger["cuda:1"].used in range(-30, 31)


def test_what_runs_once_for_a_request_is_kept_elsewhere_first() -> None:
    tree = replace(small_llama(4), reads=(Activated("model.layers.1", per_request=True),))
    plan = _planned(tree, [(190, 10**8)], overflow=True)
    assert plan is not None
    assert [path for path, unit in plan.placements.items() if unit.rule == "overflow"] == ["model.layers.1"]


def test_on_the_disk_is_what_is_brought_in_least_often() -> None:
    tree = replace(small_llama(4), reads=(Activated("model.layers.1", per_request=True),))
    policy = replace(_policy([(160, 10**8)], "fastest"), overflow=(DeviceSelector("cpu"), DeviceSelector("disk")))
    small = MemoryRule(DeviceSelector("cpu"), "total", Amount(40))
    plan = make_plan(replace(policy, memory=(*policy.memory, small)), tree, _host([(160, 10**8)]), advise=False)
    at = {path: str(unit.device) for path, unit in plan.placements.items() if unit.rule == "overflow"}
    assert at == {"model.layers.1": "disk", "model.layers.3": "cpu"}


def test_the_order_of_tables_and_keys_changes_no_digest() -> None:
    memory = '[memory.cuda]\ncap = "400 B"\nheadroom = "0 B"\nreserve = { activations = "0 B" }\n'
    work, host = "[workload]\ncontext = 64\nbatch = 2\n", _host([(0, 10**7), (0, 10**8)])
    texts = (
        f'split = "fastest"\nprefer = "cuda"\n{memory}{work}',
        f'prefer = "cuda"\nsplit = "fastest"\n[workload]\nbatch = 2\ncontext = 64\n{memory}',
    )
    assert len({make_plan(Policy.parse(text), small_llama(), host).digest for text in texts}) == 1


def test_a_unit_that_goes_says_what_it_frees() -> None:
    plan = _planned(small_llama(4), [(186, 10**8)], overflow=True)
    assert plan is not None
    assert plan.trace is not None
    assert [path for path, unit in plan.placements.items() if unit.rule == "overflow"] == ["model.layers.3"]
    assert plan.trace.of("model.layers.3") == [
        "overflow: frees 30 B, and is predicted to add 3e-06 ms to each token; "
        "next would be `model.layers.2`: 30 B, 3e-06 ms"
    ]


def test_what_runs_once_is_not_divided_without_an_answer():
    tree = ModelTree.load("bart-large")
    host = Host([Accelerator("cuda", memory="24 GiB")], memory="64 GiB")
    reading = {}
    for said in ("", "new_tokens = 0", "new_tokens = 1"):
        policy = Policy.parse(f'prefer = "cuda"\nsplit = "fastest"\n[workload]\n{said}')
        prediction = make_plan(policy, tree, host).prediction
        assert prediction is not None
        reading[said] = prediction.reading_ns, dict(prediction.assumes)["new_tokens"]
    assert [tokens for _, tokens in reading.values()] == [256, 0, 1]
    assert reading["new_tokens = 0"][0] == reading["new_tokens = 1"][0] > reading[""][0]
