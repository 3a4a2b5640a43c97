"""One arithmetic of bytes: the planner's ledger, the review's recount and the oracle agree under every workload."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from tests import oracle
from tests.worlds import make_plan

from devpolicy import Accelerator, Host, ModelTree
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy, Workload
from devpolicy._core.review.recount import Budgets, recount

HOST = Host([Accelerator("cuda", memory="400 GiB"), Accelerator("cuda", memory="400 GiB")], memory="400 GiB")
OTHER: dict[str, tuple[Any, ...]] = {
    "context": (1, 300, 20_000),
    "batch": (3,),
    "dtype": ("float32", "float16"),
    "kv_dtype": ("float32", "float8_e4m3fn"),
    "new_tokens": (0, 256, 4096, 20_000),
    "prompt": (1, 64),
    "optimize": ("first-token",),
    "beams": (1, 4),
}
"""For each key of `[workload]` values beside the default."""
OF_TIME = ("prompt", "optimize")
"""Keys that say what is predicted, and change no bytes."""
OF_ENGINES = ("kv_offload",)
"""Keys that only an engine can do, whose counts tests/targets/test_llama_cpp.py compares."""
MODELS = ("llama-3.2-1b", "gemma-2-9b", "gpt2", "bert-base")


def _counted(tree: ModelTree, workload: Workload) -> tuple[dict[str, int], ...]:
    """Bytes of weights, KV cache and activations on the only device: by the ledger, the recount and the oracle."""
    policy = ResolvedPolicy(prefer=(DeviceSelector("cuda"),), workload=workload)
    plan = make_plan(policy, tree, HOST)
    (device,) = plan.ledger
    again = recount(plan, tree, policy, Budgets(policy, HOST))[device]
    naive = oracle.recount(plan, tree, workload)[device] | {"activations": oracle.activations(tree, workload)}
    names = ("weights", "kv_cache", "activations")
    three = plan.ledger[device], again
    return *({name: getattr(one, name) for name in names} for one in three), {name: naive[name] for name in names}


@pytest.mark.parametrize("key", [field.name for field in fields(Workload) if field.name not in OF_ENGINES])
@pytest.mark.parametrize("name", MODELS)
def test_a_workload_key_changes_all_counts_or_none(name: str, key: str) -> None:
    tree = ModelTree.load(name)
    before = _counted(tree, Workload())
    changed = set()
    for value in OTHER[key]:
        counts = _counted(tree, replace(Workload(), **{key: value}))
        assert counts[0] == counts[1] == counts[2], (key, value)
        changed.add(counts[0] != before[0])
    if key in OF_TIME:
        assert changed == {False}
    else:
        assert True in changed or name == "bert-base", f"no value of `{key}` changes anything"


def test_an_answer_longer_than_the_context_is_counted() -> None:
    tree = ModelTree.load("llama-3.1-8b")
    short, long = (_counted(tree, Workload(new_tokens=tokens)) for tokens in (256, 20_000))
    assert all(after["kv_cache"] > 4 * before["kv_cache"] for before, after in zip(short, long, strict=True))
