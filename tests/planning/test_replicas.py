"""Replicas: equal copies on accelerators of their own."""

from __future__ import annotations

import pytest

from devpolicy import Accelerator, Host, Policy, PolicyError, Unsatisfiable, plan, plan_all, resolve
from devpolicy.haystack import sentence_transformers_pool

TEXT = """
prefer = ["cuda", "cpu"]
[component.embedder]
model = "bge-m3"
replicas = {}
{}
[component.generator]
model = "llama-3.1-8b"
"""


def _policy(replicas: str, more: str = "") -> Policy:
    return Policy.parse(TEXT.format(replicas, more))


def _devices(policy: Policy, host: str) -> dict[str, str]:
    return {name: made.device.to_torch_str() for name, made in plan_all(policy, host=host).items()}


def test_each_is_on_every_device_of_the_term() -> None:
    assert _devices(_policy('"each"'), "2x24gb") == {
        "embedder/0": "cuda:0",
        "embedder/1": "cuda:1",
        "generator": "cuda:0",
    }


def test_each_on_the_cpu_is_one() -> None:
    assert _devices(_policy('"each"', 'prefer = "cpu"'), "2x24gb")["embedder/0"] == "cpu"
    assert len(_devices(_policy('"each"', 'prefer = "cpu"'), "2x24gb")) == 2


def test_a_number_takes_devices_of_their_own_else_the_next_term() -> None:
    assert list(_devices(_policy("4"), "4x80gb").values())[:4] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert set(list(_devices(_policy("3"), "2x24gb").values())[:3]) == {"cpu"}


def test_too_few_say_how_many_did() -> None:
    with pytest.raises(Unsatisfiable, match="2 of 3 replicas of `embedder` fit on `cuda`"):
        plan_all(_policy("3", 'prefer = "cuda"'), host="2x24gb")


def test_copies_that_need_two_terms_are_refused() -> None:
    host = Host([Accelerator("cuda", memory="24 GiB")], memory="24 GiB")
    policy = Policy.parse('[component.a]\nprefer = ["cuda", "cpu"]\nmodel = "llama-3.1-8b"\nreplicas = 2')
    with pytest.raises(Unsatisfiable, match="1 of 2 replicas of `a` fit on `cpu`"):
        plan_all(policy, host=host)


def test_names_are_known_everywhere() -> None:
    policy = _policy('"each"')
    host = Host.load("2x24gb")
    assert resolve(policy, host=host, component="embedder/1").to_torch_str() == "cuda:1"
    assert plan(policy, None, host, component="embedder").component == "embedder/0"
    with pytest.raises(PolicyError, match="no replica `embedder/2`"):
        plan(policy, None, host, component="embedder/2")


def test_all_replicas_are_granted_the_same() -> None:
    policy = Policy.parse(
        'prefer = "cuda"\n[component.chat]\nmodel = ["llama-3.1-8b", "llama-3.2-1b"]\nreplicas = 4\n'
        "workload.context = { min = 4096 }\n"
    )
    plans = plan_all(policy, host="24-24-12-8")
    assert len({made.granted for made in plans.values()}) == 1
    assert len({made.device.to_torch_str() for made in plans.values()}) == 4


def test_pools_take_the_devices_of_replicas() -> None:
    plans = plan_all(_policy('"each"'), host="4x80gb")
    copies = [made.device for name, made in plans.items() if name.startswith("embedder/")]
    assert sentence_transformers_pool(copies) == [f"cuda:{number}" for number in range(4)]


def test_a_component_of_that_name_is_itself() -> None:
    policy = Policy.parse('prefer = "cpu"\n[component.a]\nneeds = "1 GiB"\n[component."a/0"]\nneeds = "2 GiB"\n')
    sizes = {name: made.ledger["cpu"].weights >> 30 for name, made in plan_all(policy, host="cpu-only").items()}
    assert sizes == {"a": 1, "a/0": 2}


def test_a_node_is_what_the_host_must_be() -> None:
    policy = _policy("1", 'node = { labels = { zone = "a" }, cuda = 3 }\nnodes = "spread"')
    assert _devices(policy, "4x80gb")["embedder"] == "cuda:0"
    with pytest.raises(Unsatisfiable, match="DP304"):
        plan_all(policy, host="2x24gb")
