"""What holds of every plan, for every policy, model and host."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

from hypothesis import event, given
from hypothesis import strategies as st
from tests import oracle
from tests.worlds import World, block_trees, make_plan, worlds

from devpolicy import Accelerator, Host, ModelTree, Plan, PolicyError, Unsatisfiable
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Split, Workload


def _planned(world: World) -> Plan | None:
    """The plan, or nothing where it is refused; a refusal is one of ours and says which code."""
    try:
        made = make_plan(world.policy, world.tree, world.host, advise=False)
    except Unsatisfiable as refused:
        assert refused.code is not None
        assert refused.code[:3] in ("DP3", "DP4")
        event(f"refused: {refused.code}")
        return None
    except PolicyError as refused:
        assert refused.code == "DP203"
        return None
    event(f"planned on {len(made.ledger)} devices")
    return made


WORLDS = st.one_of(worlds(), worlds(hostile=True))


@given(WORLDS)
def test_every_tensor_has_exactly_one_key_of_the_map(world: World) -> None:
    plan = _planned(world)
    if plan is None or not plan.device.has_multiple_devices:
        return
    keys = list(plan.device.to_dict()["device_map"])
    for name in oracle.tensors(world.tree):
        assert sum(name == key or name.startswith(f"{key}.") for key in keys) == 1
    assert not any(one != other and other.startswith(f"{one}.") for one in keys for other in keys)


@given(WORLDS, st.booleans())
def test_a_class_without_blocks_is_divided_with_a_warning(world: World, bare: bool) -> None:
    if bare:
        world = replace(world, tree=replace(world.tree, no_split=frozenset()))
    plan = _planned(world)
    if plan is None:
        return
    places = set(plan.device.to_dict()["device_map"].values()) if plan.device.has_multiple_devices else set()
    own = bool(world.tree.modules[0].tensors) and len(world.tree.modules) > 1
    warned = "DP422" in [warning.code for warning in plan.warnings]
    event(f"warned: {warned}")
    if world.tree.no_split or len(places) < 2:
        assert not warned
    elif own:
        assert warned
    else:
        assert not warned or world.tree.loading.architecture


@given(WORLDS)
def test_executing_devices_come_first_then_the_cpu_then_the_disk(world: World) -> None:
    plan = _planned(world)
    if plan is None or not plan.device.has_multiple_devices:
        return
    values = list(plan.device.to_dict()["device_map"].values())
    ranks = [{"cpu": 1, "disk": 2}.get(value, 0) for value in values]
    assert ranks == sorted(ranks)
    assert values[0] != "disk" or set(values) == {"disk"}


@given(WORLDS)
def test_no_device_is_over_its_budget_by_the_ledger(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    for device, budget in plan.ledger.items():
        if device != "disk":
            assert budget.used + budget.headroom <= budget.cap


@given(WORLDS)
def test_the_ledger_agrees_with_a_recount_from_the_map(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    held = oracle.recount(plan, world.tree, world.policy.workload)
    for device, budget in plan.ledger.items():
        counted = held.get(device, {"weights": 0, "kv_cache": 0, "streaming": 0, "load": 0})
        assert {key: getattr(budget, key) for key in counted} == counted, device
    assert {device for device, entry in held.items() if any(entry.values())} <= set(plan.ledger)


@given(WORLDS)
def test_what_runs_is_on_the_host_and_allowed_by_the_policy(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    running = {str(unit.runs_on) for unit in plan.placements.values()}
    kinds = {device.partition(":")[0] for device in running}
    assert len(kinds) <= 1, "one plan uses one type"
    for device in running - {"cpu", "mps"}:
        kind, _, number = device.partition(":")
        assert int(number) in {one.id for one in world.host.devices(kind)}
        assert not any(term.type == kind and term.id in (None, int(number)) for term in world.policy.avoid)
    assert kinds <= {term.type for term in world.policy.prefer}


@given(WORLDS)
def test_what_is_kept_elsewhere_has_a_rule_or_overflow(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    for unit in plan.placements.values():
        if unit.device == unit.runs_on:
            continue
        if unit.rule == "overflow":
            assert unit.device.type.value in {term.type for term in world.policy.overflow}
        else:
            rule = next(rule for rule in world.policy.rules if rule.name == unit.rule)
            assert unit.device.type.value in {term.type for term in rule.offload}


@given(WORLDS)
def test_the_first_rule_that_matches_decides(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    tied = {oracle.tensors(world.tree)[name][0] for group in world.tree.ties for name in group}
    for path, unit in plan.placements.items():
        inside = {module for module, _ in oracle.tensors(world.tree).values() if path in oracle.ancestors(module)}
        speaking = oracle.decided(world.policy, world.tree, path)
        if inside & tied or not speaking or speaking[0].on_exhausted == "next":
            continue
        rule = speaking[0]
        if rule.offload:
            assert unit.device.type.value in {term.type for term in rule.offload}
        elif rule.prefer:
            assert any(
                term.type == unit.device.type.value and term.id in (None, unit.device.id) for term in rule.prefer
            )


@given(WORLDS)
def test_tied_tensors_share_a_device(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    for group in world.tree.ties:
        modules = [oracle.tensors(world.tree)[name][0] for name in group]
        parameters = [not oracle.tensors(world.tree)[name][1].buffer for name in group]
        if all(parameters):
            assert len({str(plan.placements[module].device) for module in modules}) == 1


@given(WORLDS)
def test_a_plan_is_the_same_each_time_and_survives_json(world: World) -> None:
    plan = _planned(world)
    if plan is None:
        return
    again = make_plan(world.policy, world.tree, world.host)
    assert json.dumps(plan.to_dict()) == json.dumps(again.to_dict())
    read = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert read == plan
    assert read.digest == plan.digest
    assert read.to_hf_kwargs() == plan.to_hf_kwargs()


@given(
    block_trees(),
    st.lists(st.integers(0, 400), min_size=1, max_size=3),
    st.sampled_from(("when-needed", "balanced")),
    st.booleans(),
)
def test_overflow_offloads_only_where_no_assignment_fits(
    tree: ModelTree, budgets: list[int], split: Split, spill: bool
) -> None:
    tree = replace(tree, ties=())
    host = Host([Accelerator("cuda", memory="1 GiB") for _ in budgets], memory="64 GiB", disk="1 TiB")
    caps = tuple(
        MemoryRule(DeviceSelector("cuda", at), "total", Amount(budget), Amount(), activations=Amount())
        for at, budget in enumerate(budgets)
    )
    overflow = (DeviceSelector("cpu"),) if spill else ()
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"),), overflow=overflow, split=split, memory=caps, workload=Workload(context=2)
    )
    blocks = [path for path in ("embed", "norm", "lm_head") if path in tree.index]
    blocks += [f"layers.{at}" for at in range(len(tree.kv_cache))]
    order = sorted(blocks, key=lambda path: tree.index[path])
    caches = {cache.module: cache.values * 2 * 4 for cache in tree.kv_cache}
    sizes = [_all_bytes(tree, path) + caches.get(path, 0) for path in order]
    best = oracle.best_peak(sizes, budgets)
    try:
        plan = make_plan(policy, tree, host, advise=False)
    except Unsatisfiable:
        assert not oracle.any_fits(sizes, budgets)
        return
    kept = [path for path, unit in plan.placements.items() if unit.device != unit.runs_on]
    assert bool(kept) != oracle.any_fits(sizes, budgets)
    if best is not None:
        used = {str(unit.runs_on) for unit in plan.placements.values()}
        fewest = next(count for count in range(1, 9) if oracle.best_peak(sizes, budgets, count) is not None)
        if split == "when-needed":
            assert len(used) == fewest
        if split == "balanced" or fewest > 1:
            peak = max(Fraction(budget.used, budget.cap) for budget in plan.ledger.values() if budget.cap)
            assert peak == oracle.best_peak(sizes, budgets, None if split == "balanced" else fewest)


def _all_bytes(tree: ModelTree, path: str) -> int:
    return sum(
        oracle.size(tensor) for module, tensor in oracle.tensors(tree).values() if path in oracle.ancestors(module)
    )
