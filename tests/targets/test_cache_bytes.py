"""The KV cache of the ledger is the cache that real models make, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from devpolicy import Accelerator, Host, Policy, plan  # noqa: E402

HOST = Host([Accelerator("cuda", memory="4 GiB")], memory="16 GiB")
TOKENS = 8
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPEECH = {
    **IDS, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "llama", TINY),
    "wider heads": ("LlamaForCausalLM", "llama", {**TINY, "head_dim": 20}),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", {**TINY, "head_dim": 24, "sliding_window": 16}),
    "bart": ("BartForConditionalGeneration", "bart", {**SPEECH, "max_position_embeddings": 64}),
    "t5": ("T5ForConditionalGeneration", "t5", {**IDS, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2,
                                                "num_heads": 4, "vocab_size": 64}),
    "whisper": ("WhisperForConditionalGeneration", "whisper",
                {**SPEECH, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20}),
    "zamba2": ("Zamba2ForCausalLM", "zamba2", {
        **TINY, "num_hidden_layers": 6, "num_key_value_heads": 4, "mamba_d_state": 8, "mamba_expand": 2,
        "n_mamba_heads": 4, "mamba_ngroups": 1, "num_mem_blocks": 1, "adapter_rank": 4, "hybrid_layer_ids": [2, 5],
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
    }),
}  # fmt: skip


def cached(cache: Any) -> int:
    """Return the bytes of keys and values in a cache, of both of an encoder-decoder model."""
    if hasattr(cache, "self_attention_cache"):
        return cached(cache.self_attention_cache) + cached(cache.cross_attention_cache)
    held = [getattr(layer, key, None) for layer in cache.layers for key in ("keys", "values")]
    return sum(one.numel() * one.element_size() for one in held if torch.is_tensor(one))


@pytest.mark.parametrize("name", MODELS)
def test_the_cache_is_counted_as_it_is_made(name: str, tmp_path: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    architecture, model_type, sizes = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(transformers.AutoConfig.for_model(model_type, **sizes)).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(1, TOKENS + 1)[None]
    given = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
    if name == "whisper":
        given = {"input_features": torch.randn(1, 8, 40), "decoder_input_ids": ids}
    with torch.no_grad():
        cache = model(**given, use_cache=True).past_key_values
    made = plan(Policy.parse(f'prefer = "cuda"\nworkload.context = {TOKENS}'), tmp_path, HOST)
    assert made.ledger["cuda:0"].kv_cache == cached(cache)


def test_a_decoder_keeps_no_more_than_its_own_limit(tmp_path: Path) -> None:
    _, model_type, sizes = MODELS["whisper"]
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    budgets = [
        plan(Policy.parse(f'prefer = "cuda"{text}'), tmp_path, HOST).ledger["cuda:0"].kv_cache
        for text in ("", "\nworkload.context = 20", "\nworkload.context = 4096")
    ]
    assert len(set(budgets)) == 1
