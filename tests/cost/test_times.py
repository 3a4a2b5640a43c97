"""The cost model beyond bandwidth: products, prompts, calls, and what a host says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from devpolicy._core.certify import certify
from devpolicy._core.cost.prediction import Prediction
from devpolicy._core.model.tree import Activated, KVCache, Module, Tensor

SLOW = {"ram": 10**9, "matmul_float32": 10**9, "matmul_bfloat16": 10**10, "ram_bfloat16": 5 * 10**8}


def _tree(**more: Any) -> ModelTree:
    linear = Module("layers.0.mlp", "Linear", (Tensor("weight", (1000, 1000)),))
    modules = (Module("", "Model"), Module("layers", "ModuleList"), Module("layers.0", "Block"), linear)
    return ModelTree("one", modules, no_split=frozenset({"Block"}), dtype="float32", **more)


def _predicted(tree: ModelTree, host: Host, workload: str = "") -> Prediction:
    made = plan(Policy.parse(f"prefer = 'cpu'\nsplit = 'fastest'\n[workload]\nnew_tokens = 4\n{workload}"), tree, host)
    assert made.prediction is not None
    return made.prediction


def _host(**speed: int) -> Host:
    return Host(memory="8 GiB", speed={**SLOW, **speed})


def test_a_cpu_reads_and_then_computes_what_further_rows_add() -> None:
    assert _predicted(_tree(), _host()).reading_ns == 4 * 10**6  # 4 MB at 1 GB/s, with the products of one row
    assert _predicted(_tree(), _host(), "batch = 8").reading_ns == (4 + 14) * 10**6  # 7 more of 2 million at 1 G/s
    assert _predicted(_tree(), _host(), "context = 64\nprompt = 32").first_token_ns == (4 + 62) * 10**6


def test_a_gpu_takes_the_longer_of_reading_and_computing() -> None:
    card = Accelerator("cuda", memory="8 GiB", bandwidth=10**9, matmul_float32=10**9)
    for batch, expected in ((1, 4), (8, 16)):
        policy = Policy.parse(f"prefer = 'cuda'\nsplit = 'fastest'\n[workload]\nbatch = {batch}")
        made = plan(policy, _tree(), Host([card], memory="8 GiB"))
        assert made.prediction is not None
        assert made.prediction.reading_ns == expected * 10**6


def test_a_prompt_that_is_not_stated_is_the_rest_of_the_context() -> None:
    assert dict(_predicted(_tree(), _host(), "context = 64").assumes)["prompt"] == 60


def test_each_dtype_has_its_own_speeds() -> None:
    said = _predicted(_tree(), _host(), "dtype = 'bfloat16'\ncontext = 64\nprompt = 32")
    assert said.reading_ns == 4 * 10**6  # 2 MB at half the speed
    assert said.first_token_ns == pytest.approx(4 * 10**6 + 62 * 10**5, rel=1e-6)


def test_a_prompt_reads_all_experts_of_a_mixture() -> None:
    tree = _tree(reads=(Activated("layers.0.mlp", 1, 4),))
    said = _predicted(tree, _host(), "context = 64\nprompt = 32")
    assert said.reading_ns == 10**6  # a quarter of 4 MB
    assert said.first_token_ns == (4 + 14) * 10**6  # each of four experts 8 rows, of which the first comes with reading
    fast = _host(matmul_float32=10**15)
    assert _predicted(tree, fast, "context = 64\nprompt = 32").first_token_ns == pytest.approx(4 * 10**6, rel=1e-4)


def test_the_head_computes_the_last_token_of_a_prompt_alone() -> None:
    head = _tree(logits_elements=1000, kv_cache=(KVCache("layers.0", 1),))
    assert _predicted(head, _host(), "context = 64\nprompt = 32").first_token_ns == 4 * 10**6


def test_calls_add_up_on_a_cpu_and_not_on_an_accelerator() -> None:
    assert _predicted(_tree(), _host(call_ns=1000)).calling_ns == 4000  # four modules
    card = Accelerator("cuda", memory="8 GiB", bandwidth=10**9)
    for call_ns, added in ((1000, 0), (2 * 10**6, 4 * 10**6)):
        host = Host([card], memory="8 GiB", speed={"call_ns": call_ns})
        made = plan(Policy.parse("prefer = 'cuda'\nsplit = 'fastest'"), _tree(), host)
        assert made.prediction is not None
        assert (made.prediction.reading_ns, made.prediction.calling_ns) == (4 * 10**6, added)


def test_each_tensor_that_is_brought_in_is_a_call_too() -> None:
    rule = "[offload]\n'layers.0' = 'disk'\n"
    text = f"prefer = 'cpu'\nsplit = 'fastest'\n[memory.disk]\npath = 'there'\n{rule}[workload]\nnew_tokens = 4"
    for onload_ns in (0, 1000):
        host = Host(memory="8 GiB", disk="1 TiB", speed={"disk": 10**9, "onload_ns": onload_ns})
        head = Module("head", "Linear", (Tensor("weight", (10, 1000)),))
        made = plan(Policy.parse(text), replace(_tree(), modules=(*_tree().modules, head)), host)
        assert made.prediction is not None
        assert made.prediction.streaming_ns == 4 * 10**6 + onload_ns
        assert dict(made.prediction.assumes).get("onload_ns", 0) == onload_ns


def test_a_plan_says_when_its_speeds_were_measured() -> None:
    measured = replace(_host(), measured="2026-01-02")
    assert (_predicted(_tree(), _host()).measured, _predicted(_tree(), measured).measured) == (None, "2026-01-02")


def test_the_first_token_may_count_instead() -> None:
    # One card reads fast, the other computes fast.
    reads = Accelerator("cuda", memory="2 GiB", bandwidth=10**12, matmul_float32=10**10)
    computes = Accelerator("cuda", memory="2 GiB", bandwidth=10**10, matmul_float32=10**14)
    host = Host([reads, computes], memory="8 GiB")
    used = {}
    for what in ("token", "first-token"):
        policy = Policy.parse(f"prefer = 'cuda'\nsplit = 'fastest'\n[workload]\ncontext = 512\noptimize = '{what}'")
        made = plan(policy, _tree(), host)
        used[what] = made.device.to_torch_str()
        bound = certify(made, policy.for_host(host), _tree(), host, solver=False)
        assert bound.gap == pytest.approx(0, abs=1e-6)
    assert used == {"token": "cuda:0", "first-token": "cuda:1"}


def test_a_prediction_of_an_earlier_version_is_read() -> None:
    made = plan(Policy.parse("prefer = 'cpu'\nsplit = 'fastest'"), _tree(), _host())
    data = made.to_dict()
    for key in ("predicted_ns_to_first_token", "calling_ns", "measured"):
        del data["prediction"][key]
    again = Plan.from_dict(data)
    assert again.prediction is not None
    assert (again.prediction.ns, again.prediction.first_token_ns) == (made.prediction.ns, None)  # type: ignore[union-attr]


def test_no_time_is_needed_to_refuse() -> None:
    with pytest.raises(Unsatisfiable):
        plan(Policy.parse("prefer = 'cpu'\nsplit = 'fastest'"), _tree(), Host(memory="1 MiB"))
