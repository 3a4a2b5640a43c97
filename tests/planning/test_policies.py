"""What people ask of a policy, in the language: each is planned on hosts that show what it means.

What cannot be said is listed with what would be needed, here and in `docs/limits.md`: `NOT_YET` is empty once all of
them can be.
"""

from __future__ import annotations

import json
import struct
import warnings
from itertools import product
from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy import Plan, Policy, Unsatisfiable, plan, plan_all
from devpolicy.fleet import Fleet, plan_fleet

NOT_YET = {
    "speculative decoding": "an assistant of speculative decoding",
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


LABELS = """
[component.generator]
model = "llama-3.1-8b"
prefer = "cuda"
replicas = 3
nodes = "spread"
node = { labels = { zone = "a", tier = ["small", "medium"] }, os = "linux" }
"""

ADAPTED = """
prefer = "cuda"
[component.chat]
model = "llama-3.1-8b"
loading = {{ quantization = "nf4", adapter = "{}" }}
"""

IMAGES = """
prefer = "cuda"
overflow = "cpu"
[component.image]
model = "{}"
target = "diffusers"
"""

SENTENCE = """
prefer = ["cuda", "mps"]
[offload]
lm_head = "disk"
"""


def _plans(text: str, host: str) -> dict[str, Plan]:
    return plan_all(Policy.parse(text), host=host)


def _granted(made: Plan) -> tuple[str | None, int | None, bool]:
    assert made.granted is not None
    return made.granted.model, made.granted.context, bool(made.granted.overflow)


def test_one_policy_for_a_server_a_workstation_and_a_laptop() -> None:
    granted = {host: _granted(_plans(ONE_POLICY, host)["chat"])[:2] for host in ("4x80gb", "1x24gb", "macbook-m3-36gb")}
    assert granted["4x80gb"] == ("llama-3.3-70b", 129792)
    assert {model for model, _ in granted.values()} == {"llama-3.3-70b", "llama-3.1-8b"}
    assert all(context is not None and context >= 8192 for _, context in granted.values())


def test_a_floor_for_the_context_before_layers_leave_the_gpu() -> None:
    keeps = _plans(FLOOR.format('["context", "overflow"]'), "1x24gb")["chat"]
    assert _granted(keeps) == ("llama-3.1-8b", 28416, False)
    leaves = _plans(FLOOR.format('["overflow", "context"]'), "1x24gb")["chat"]
    context = _granted(leaves)[1]
    assert context is not None
    assert context > 28416


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


def test_a_fleet_is_chosen_from_by_labels() -> None:
    fleet = Fleet.load("mixed-50")
    chosen = [one.node for one in plan_fleet(Policy.parse(LABELS), None, fleet).components.values()]
    assert len(set(chosen)) == 3
    assert {fleet.labels(node)["zone"] for node in chosen} == {"a"}
    assert {fleet.labels(node)["tier"] for node in chosen} <= {"small", "medium"}


def test_an_adapter_on_a_model_in_four_bits(tmp_path: Path) -> None:
    shapes = {"lora_A": [8, 4096], "lora_B": [4096, 8]}
    header, end = {}, 0
    for layer, (part, shape) in product(range(32), shapes.items()):
        key = f"base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight"
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * 8 * 4096]}
        end += 2 * 8 * 4096
    text = json.dumps(header).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}')
    made = _plans(ADAPTED.format(tmp_path.as_posix()), "1x24gb")["chat"]
    plain = _plans(ADAPTED.format(tmp_path.as_posix()).replace(f', adapter = "{tmp_path.as_posix()}"', ""), "1x24gb")
    assert made.loading.scheme == "nf4"
    # PEFT keeps an adapter in float32.
    assert made.ledger["cuda:0"].weights - plain["chat"].ledger["cuda:0"].weights == 2 * end


def test_images_stream_and_stay_with_the_rest(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.targets import pipelines

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = IMAGES.format(pipelines.saved(tmp_path / "flux").as_posix())
    made = _plans(text, "1x24gb")["image"]
    assert {str(unit.runs_on) for unit in made.placements.values()} == {"cuda:0"}
    # A mode of diffusers is for the whole pipeline.
    with pytest.raises(Unsatisfiable, match="`overflow` streams all of them") as refused:
        _plans(text + 'offload.text_encoder_2 = "cpu"\n', "1x24gb")
    assert refused.value.code == "DP409"


def test_the_first_sentence_of_all_needs_three_lines() -> None:
    """Run on the accelerator, and keep the output head on disk."""
    assert len(SENTENCE.split("\n")[1:-1]) == 3
    shipped = Policy.load("offload-lm-head")
    for host in ("1x24gb", "macbook-m3-36gb"):
        made = plan(Policy.parse(SENTENCE), "llama-3.1-8b", host)
        kept = {path for path, unit in made.placements.items() if str(unit.device) == "disk"}
        assert kept == {"lm_head"}
        assert made.digest == plan(shipped, "llama-3.1-8b", host).digest


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
    beside = {
        "test_the_first_sentence_of_all_needs_three_lines",
        "test_every_policy_that_was_asked_for_is_here_or_listed",
    }
    assert len(set(said) - beside) + len(NOT_YET) == 12
    limits = " ".join((Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8").split())
    for policy, needs in NOT_YET.items():
        assert policy in limits
        assert needs in limits
