"""What eager attention holds at its peak is within what is counted for it: its scores are there for all pairs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from devpolicy import Accelerator, Host, ModelTree, Policy, plan

TOKENS = 1024
DECODER = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 128, "max_position_embeddings": 2048,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", DECODER),
    "gemma2": ("Gemma2ForCausalLM", DECODER),
    "gpt_oss": ("GptOssForCausalLM", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "t5": ("T5ForConditionalGeneration", {"d_model": 64, "d_ff": 128, "d_kv": 8, "num_heads": 8, "num_layers": 2,
                                          "vocab_size": 128}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 128}),
    "mpnet": ("MPNetModel", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                             "num_attention_heads": 8, "vocab_size": 128, "max_position_embeddings": 2048}),
}  # fmt: skip
HOST = Host([Accelerator("cuda", memory="24 GiB", capability=(8, 0))], memory="64 GiB")


# The dtype in which each comes closest to what is counted.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("llama", "bfloat16"), ("gemma2", "bfloat16"), ("bloom", "bfloat16")),
        *(("gpt_oss", "float32"), ("t5", "float32"), ("mpnet", "float32")),
    ],
)
def test_the_peak_of_eager_attention_is_counted(name: str, dtype: str) -> None:
    architecture, sizes = MODELS[name]
    tree = ModelTree.from_config({"model_type": name, "architectures": [architecture], **sizes})
    asked = f'prefer = "cuda"\nloading.attention = "eager"\nworkload = {{ context = {TOKENS}, dtype = "{dtype}" }}\n'
    made = plan(Policy.parse(asked), tree, HOST)
    use = made.dry_run(tree, HOST).devices["cuda:0"]
    counted = use.ledger.weights + use.ledger.kv_cache + use.ledger.activations
    assert 0.5 * counted < use.run_peak <= counted


def test_a_bias_builds_the_scores_whatever_computes_attention() -> None:
    architecture, sizes = MODELS["t5"]
    tree = ModelTree.from_config({"model_type": "t5", "architectures": [architecture], **sizes})
    made = plan(Policy.parse(f'prefer = "cuda"\nworkload.context = {TOKENS}'), tree, HOST)
    assert dict(made.loading.attention) == {"": "sdpa"}
    use = made.dry_run(tree, HOST).devices["cuda:0"]
    assert use.run_peak <= use.planned
    assert made.ledger["cuda:0"].activations > 8 * TOKENS**2 * 4
