"""A model that was divided before is divided for other tokens as if it had not been."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import World, worlds

from devpolicy import PolicyError, Unsatisfiable
from devpolicy._core.language.policy import Workload
from devpolicy._core.placement.planner import _divided

WORKLOADS = st.builds(
    Workload,
    context=st.none() | st.integers(1, 3000),
    batch=st.integers(1, 3),
    dtype=st.sampled_from((None, "float16")),
    kv_dtype=st.sampled_from((None, "float32")),
    beams=st.none() | st.integers(1, 3),
)


@given(worlds(hostile=True), WORKLOADS, st.lists(WORKLOADS, min_size=1, max_size=3))
def test_other_tokens_change_caches_and_activations_alone(
    world: World, first: Workload, others: list[Workload]
) -> None:
    for workload in (first, *others):
        policy = replace(world.policy, workload=workload)
        fresh = replace(world.tree)
        try:
            found = _divided(policy, world.tree)
        except (PolicyError, Unsatisfiable):
            return
        (sizing, division, findings), expected = found, _divided(policy, fresh)
        assert sizing == expected[0]
        assert findings == expected[2]
        assert (division.units, division.matched, division.matching_rules, division.together, division.shape) == (
            expected[1].units,
            expected[1].matched,
            expected[1].matching_rules,
            expected[1].together,
            expected[1].shape,
        )
