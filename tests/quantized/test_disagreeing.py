"""Quantised checkpoints whose files disagree, and models with biases and `Conv1D`: planned as loaded, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.quantized.rules import need_these_rules

need_these_rules()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import Unsatisfiable, plan  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402
from tests.quantized.checkpoints import full  # noqa: E402
from tests.quantized.test_loaded import HOSTS, ONE, TWO, policy, quiet  # noqa: E402, F401
from tests.quantized.test_made import policy as made_policy  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

CLAIMED: dict[str, dict[str, Any]] = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
}
GPT2 = {"n_embd": 256, "n_layer": 3, "n_head": 4, "vocab_size": 64, "n_positions": 64}


def change(folder: Path, **keys: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).to(torch.bfloat16).save_pretrained(folder)
    return folder


def quantized(source: Path, folder: Path, **settings: Any) -> Path:
    """Save what bitsandbytes makes of a checkpoint on the CPU."""
    pytest.importorskip("bitsandbytes")
    given = transformers.BitsAndBytesConfig(**settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16", quantization_config=given)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CLAIMED)
def test_weights_that_are_stored_as_they_are_refute_a_scheme(name: str, tmp_path: Path) -> None:
    folder = change(full(tmp_path / name), quantization_config=CLAIMED[name])
    with pytest.raises(Unsatisfiable, match=r"q_proj.weight` as it is: take `quantization_config` out") as refused:
        plan(policy("8.9", ONE), folder, HOSTS["8.9"])
    assert refused.value.code == "DP417"
    change(folder, quantization_config=None)
    assert plan(policy("8.9", ONE), folder, HOSTS["8.9"]).loading.scheme == "none"


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_a_list_that_leaves_a_tied_head_out_is_refused(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "full"
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(source)
    folder = quantized(source, tmp_path / "packed", **{kind: True}, llm_int8_skip_modules=["q_proj"])
    with pytest.raises(Unsatisfiable, match="whose weight is tied") as refused:
        plan(policy("8.9", ONE), folder, HOSTS["8.9"])
    assert "add `lm_head` to `llm_int8_skip_modules`" in str(refused.value.diagnostics[0].help)
    table = json.loads((folder / "config.json").read_text())["quantization_config"]
    change(folder, quantization_config=table | {"llm_int8_skip_modules": ["q_proj", "lm_head"]})
    run(plan(policy("8.9", TWO), folder, HOSTS["8.9"]), folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_biases_get_the_dtype_of_the_products(dtype: str, gpt2: Path, tmp_path: Path) -> None:
    """Where nobody says it, that is float32: the first forward makes them so, and they stay so."""
    folder = quantized(gpt2, tmp_path, load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
    made = plan(policy("8.9", TWO), folder, HOSTS["8.9"])
    after = run(made, folder)
    assert after == {device: budget.weights for device, budget in made.ledger.items()}


@pytest.mark.parametrize("layout", ["never", "balanced"])
@pytest.mark.parametrize("word", ["int8", "nf4", "nf4-double"])
def test_a_conv1d_is_turned_before_it_is_quantised(word: str, layout: str, gpt2: Path) -> None:
    pytest.importorskip("bitsandbytes")
    made = plan(made_policy(word, "cuda", layout), gpt2, HOSTS["8.9"])
    run(made, gpt2)


def run(made: Any, folder: Path) -> dict[str, int]:
    """Load by a plan and run once; return what each device holds then, but for a table that all models share."""
    with simulate_host(HOSTS["8.9"], depth="tensors"), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **made.to_hf_kwargs())
        assert made.verify(model) == []
        for device, budget in made.ledger.items():
            assert simulated_device(device).peak <= budget.load + 4096
        held = {device: simulated_device(device).allocated for device in made.ledger}
        assert all(size <= made.ledger[device].weights + 1024 for device, size in held.items())
        model(torch.ones(1, 8, dtype=torch.long, device="cuda:0"))
        assert made.verify(model) == []
        return {device: simulated_device(device).allocated for device in made.ledger}
