"""Random models, with names that are easily mistaken and tensors on containers, still answer the same when they are
dispatched by a plan. Readers that agree are not enough: a forward has to run."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from devpolicy import Host, ModelTree, Unsatisfiable  # noqa: E402
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Rule, Workload  # noqa: E402
from devpolicy._core.placement.planner import make_plan  # noqa: E402
from devpolicy._core.strategies.policies import patterns  # noqa: E402

NAMES = ("layers", "1", "10", "11", "lm_head", "lm_head_norm", "a", "b", "axb", "a-b")
CPU, DISK = DeviceSelector("cpu"), DeviceSelector("disk")


class Chain(torch.nn.Module):  # type: ignore[misc]
    """Runs its children one after the other, then applies tensors of its own."""

    def forward(self, x: Any) -> Any:
        for child in self.children():
            x = child(x)
        for parameter in self._parameters.values():
            x = x * parameter
        for buffer in self._buffers.values():
            x = x + buffer
        return x


@st.composite
def chains(draw: st.DrawFn, depth: int = 3) -> Any:
    chain = Chain()
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True)):
        kind = draw(st.sampled_from(("linear", "norm", "empty", "chain")))
        if kind == "chain" and depth:
            chain.add_module(name, draw(chains(depth=depth - 1)))
        elif kind == "norm":
            chain.add_module(name, torch.nn.LayerNorm(4))
        elif kind == "linear":
            chain.add_module(name, torch.nn.Linear(4, 4))
        else:
            chain.add_module(name, torch.nn.Identity())
    if draw(st.booleans()):
        chain.register_parameter("scale", torch.nn.Parameter(torch.rand(4)))
    if draw(st.booleans()):
        chain.register_buffer("shift", torch.rand(4), persistent=draw(st.booleans()))
    return chain


@settings(max_examples=settings.default.max_examples // 2)
@given(chains(), st.data())
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
def test_a_dispatched_model_answers_as_before(model: Any, data: st.DataObject) -> None:
    tree = ModelTree.from_module(model)
    paths = [module.path for module in tree.modules if module.path]
    count = data.draw(st.integers(0, 3)) if paths else 0
    # Each of a text of its own: rules of one text must not shadow each other.
    rules = [
        Rule(f"rule {at}", (data.draw(patterns(modules=paths)),), offload=(DISK,), layer=f"{at}") for at in range(count)
    ]
    cap = tree.bytes_as() * data.draw(st.sampled_from((100, 60, 40))) // 100
    policy = ResolvedPolicy(
        prefer=(CPU,),
        overflow=(DISK,),
        rules=tuple(rules),
        memory=(MemoryRule(CPU, "total", Amount(cap)),),
        disk_path="offload",
        workload=Workload(context=1),
    )
    try:
        plan = make_plan(policy, tree, Host(memory="64 GiB", disk="1 TiB"), advise=False)
    except Unsatisfiable:
        return
    x = torch.rand(2, 4)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = model(x)
        dispatched = accelerate.dispatch_model(model, plan.to_hf_kwargs()["device_map"], offload_dir=folder)
        assert torch.equal(dispatched(x), before)
        assert plan.verify(dispatched) == []
