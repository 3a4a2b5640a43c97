"""Components that are planned after others on one host."""

from __future__ import annotations

import pytest

from devpolicy import Host, ModelTree, Policy, Unsatisfiable, plan_all
from devpolicy._core.model.tree import Module, Tensor

HOST = Host(memory="64 GiB", disk="1 GiB")


def _model(name: str) -> ModelTree:
    weight = Tensor("weight", (150 * 2**20,), "float32")
    modules = (Module("", "Model"), Module("body", "Linear"), Module("head", "Linear", (weight,), in_place=False))
    return ModelTree(name, (*modules, Module("tail", "Linear", (Tensor("weight", (1,)),))))


def test_what_one_component_rewrites_is_not_there_for_the_next() -> None:
    text = 'prefer = "cpu"\nmemory.disk.path = "offload"\noffload.head = "disk"\n'
    assert plan_all(Policy.parse(text), {"one": _model("a")}, HOST)["one"].loading.rewritten == 600 * 2**20
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(Policy.parse(text), {"one": _model("a"), "two": _model("b")}, HOST)
    assert refused.value.code == "DP303"
    assert "424.0 MiB are left there" in str(refused.value)
