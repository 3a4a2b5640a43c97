"""What tools write of their quantisation is planned as it is held, or refused by a sentence that is true."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.model import config as reader
from tests.quantized.found import DEQUANTISED, FOUND, LLAMA

HOSTS = {
    **{
        f"{major}.{minor}": Host([Accelerator("cuda", memory="80 GiB", capability=(major, minor))], memory="256 GiB")
        for major, minor in ((7, 5), (8, 0), (8, 9), (9, 0))
    },
    "rocm": Host.load("8xmi300x"), "mac": Host.load("mac-128gb"), "cpu": Host(memory="256 GiB"),
}  # fmt: skip
DEVICES = {"mac": "mps", "cpu": "cpu"}


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "has_transformers", lambda: False)


@cache
def tree(name: str) -> ModelTree:
    model, said, *_ = FOUND[name]
    return ModelTree.from_config({**model, "quantization_config": said})


def planned(model: ModelTree, host: str, target: str) -> Plan:
    policy = f'prefer = "{DEVICES.get(host, "cuda")}"\n[workload]\ncontext = 8\n'
    return plan(Policy.parse(policy), model, HOSTS[host], target=target)


@pytest.mark.parametrize("name", FOUND)
def test_it_is_held_as_expected(name: str) -> None:
    for target, expected in zip(("hf", "vllm"), FOUND[name][2:], strict=True):
        if expected not in (DEQUANTISED, *SCHEMES):
            with pytest.raises(Unsatisfiable, match=expected) as refused:
                planned(tree(name), "8.9", target)
            assert refused.value.code == "DP417"
            assert refused.value.diagnostics[0].help
            continue
        made = planned(tree(name), "8.9", target)
        assert made.loading.scheme == ("none" if expected == DEQUANTISED else expected)


@pytest.mark.parametrize(
    ("host", "target"),
    [("7.5", "hf"), ("rocm", "hf"), ("mac", "torch"), ("cpu", "haystack"), ("8.0", "sglang"), ("9.0", "vllm")],
)
def test_none_is_at_full_size_in_silence(host: str, target: str) -> None:
    for name in FOUND:
        full = tree(name).bytes_as()
        try:
            made = planned(tree(name), host, target)
        except Unsatisfiable as refused:
            (finding,) = refused.diagnostics
            assert finding.code == "DP409" or "dequantised" in finding.notes[0], name
            continue
        if sum(budget.weights for budget in made.ledger.values()) > 0.8 * full:
            assert "DP418" in [warning.code for warning in made.warnings], name


def test_an_engine_on_rocm_is_not_counted_as_on_cuda() -> None:
    with pytest.raises(Unsatisfiable, match=r"no plan is made .*ROCm"):
        planned(tree("awq"), "rocm", "vllm")


def test_fp8_without_blocks_has_scales_of_whole_weights() -> None:
    """Engines and Transformers take different blocks where none are given."""

    def held(said: dict[str, Any]) -> int:
        made = planned(ModelTree.from_config({**LLAMA, "quantization_config": said}), "8.9", "vllm")
        return sum(budget.weights for budget in made.ledger.values())

    bare = {"quant_method": "fp8", "activation_scheme": "static"}
    assert held(bare) == held({**bare, "weight_block_size": None})
