"""What people ask of a policy, in the language: each is planned on hosts that show what it means.

What another room has to bring first is listed with what it is: `NOT_YET` is empty once all of them can be said.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy import Plan, Policy, Unsatisfiable, plan_all

NOT_YET = {
    "a speculative decoder": "a drafter that shares its generator's device and context (`draft` is kept for it)",
    "a fleet by labels": "hosts with labels, and a plan over several of them",
    "a diffusers pipeline": "the target `diffusers`, whose parts are models of their own",
    "an adapter on a quantised model": "schemes that are made while a model is loaded",
}

ONE_POLICY = """
prefer = ["cuda", "mps", "cpu"]
relax = ["context", "model"]
workload.context = { min = 8192, max = 131072 }
component.chat.model = ["llama-3.3-70b", "llama-3.1-8b"]
"""

FLOOR = """
prefer = "cuda"
overflow = "cpu"
relax = {}
workload.context = {{ min = 8192, max = 131072 }}
component.chat.model = "llama-3.1-8b"
"""

EXPERTS = """
prefer = "cuda"
component.moe.model = "mixtral-8x7b"
[[component.moe.rule]]
class = "*Experts"
overflow = "cpu"
"""

POOL = """
prefer = "cuda"
[component.embedder]
model = "bge-m3"
replicas = 4
share = "10%"
[component.generator]
model = "llama-3.1-70b"
"""

BESIDE = """
prefer = "cuda"
[component.server]
model = "llama-3.1-8b"
workload.context = { min = 8192, max = 32768 }
[component.reranker]
model = "bge-reranker-m3"
workload.context = 512
"""

VISION = """
prefer = "cuda"
[component.vlm]
model = "qwen2.5-vl-7b"
memory.cuda.reserve.activations = "4 GiB"
"""

SPEECH = """
prefer = "cuda"
[component.asr]
model = "whisper-large-v3"
workload = { context = 448, batch = 8 }
"""


def _plans(text: str, host: str) -> dict[str, Plan]:
    return plan_all(Policy.parse(text), host=host)


def _granted(made: Plan) -> tuple[str | None, int | None, bool]:
    assert made.granted is not None
    return made.granted.model, made.granted.context, bool(made.granted.overflow)


def test_one_policy_for_a_server_a_workstation_and_a_laptop() -> None:
    granted = {host: _granted(_plans(ONE_POLICY, host)["chat"])[:2] for host in ("4x80gb", "1x24gb", "macbook-m3-36gb")}
    assert granted["4x80gb"] == ("llama-3.3-70b", 131072)
    assert {model for model, _ in granted.values()} == {"llama-3.3-70b", "llama-3.1-8b"}
    assert all(context is not None and context >= 8192 for _, context in granted.values())


def test_a_floor_for_the_context_before_layers_leave_the_gpu() -> None:
    keeps = _plans(FLOOR.format('["context", "overflow"]'), "1x24gb")["chat"]
    assert _granted(keeps) == ("llama-3.1-8b", 29696, False)
    leaves = _plans(FLOOR.format('["overflow", "context"]'), "1x24gb")["chat"]
    context = _granted(leaves)[1]
    assert context is not None
    assert context > 29696


def test_as_many_experts_as_fit_and_the_rest_in_memory() -> None:
    stored = _plans(EXPERTS, "2x24gb")["moe"].placements
    assert {path.rpartition(".")[2] for path, unit in stored.items() if unit.device != unit.runs_on} == {"experts"}


def test_four_embedders_and_one_generator() -> None:
    plans = _plans(POOL, "4x80gb")
    assert list(plans) == [*(f"embedder/{number}" for number in range(4)), "generator"]
    with pytest.raises(Unsatisfiable, match="of 4 replicas"):
        _plans(POOL, "2x24gb")


def test_a_server_and_a_reranker_share_a_card_in_either_order() -> None:
    server, reranker = BESIDE.split("[component.reranker]")
    other = server.split("[component.server]")
    turned = f"{other[0]}[component.reranker]{reranker}[component.server]{other[1]}"
    assert set(_plans(BESIDE, "1x24gb")) == set(_plans(turned, "1x24gb")) == {"server", "reranker"}


def test_a_vision_model_with_room_for_its_images() -> None:
    assert _plans(VISION, "1x24gb")["vlm"].ledger["cuda:0"].activations == 4 << 30


def test_speech() -> None:
    assert _plans(SPEECH, "1x24gb")["asr"].to_generation_kwargs() == {"max_length": 448}


CI = """
[[test]]
name = "the 8 GB card never has less than 8,192 tokens"
host = "1x8gb"
component = "chat"
vary = {{ "cuda.free" = ["5 GiB", "6 GiB", "7 GiB"] }}
expect_model = "{}"
expect_context = ">=8192"
always = ["context:8192", "within_budget", "same_each_time"]
"""


@pytest.mark.parametrize(("model", "status"), [("llama-3.2-1b", 0), ("llama-3.3-70b", 1)])
def test_ci_holds_the_floor_of_a_card(tmp_path: Path, model: str, status: int) -> None:
    path = tmp_path / "chat.toml"
    models = '["llama-3.3-70b", "llama-3.2-1b"]'
    path.write_text(ONE_POLICY.replace('["llama-3.3-70b", "llama-3.1-8b"]', models) + CI.format(model))
    result = invoke("test", str(path))
    assert result.status == status, result.stdout


def test_every_policy_that_was_asked_for_is_here_or_listed() -> None:
    said = [name for name in globals() if name.startswith("test_")]
    assert len(said) - 1 + len(NOT_YET) == 12
