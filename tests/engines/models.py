"""Tiny real GGUF files, which llama.cpp loads and runs: dense, mixture, and with a tied head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = 259  # unknown, begin, end, and a token for each byte


def write(
    path: Path,
    *,
    experts: int = 0,
    used: int = 2,
    head: bool = True,
    layers: int = 8,
    hidden: int = 256,
    inner: int = 0,
    heads: int = 4,
    key_values: int = 2,
    vocabulary: int = 512,
) -> Path:
    """Write one. Linear layers are q8_0, norms float32, the embedding float16."""
    import gguf
    import numpy as np

    made: Any = gguf.GGUFWriter(path, "llama")
    inner = inner or 2 * hidden
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"▁w{number}" for number in range(vocabulary - SPECIAL)]
    made.add_context_length(2048)
    made.add_embedding_length(hidden)
    made.add_block_count(layers)
    made.add_feed_forward_length(inner)
    made.add_head_count(heads)
    made.add_head_count_kv(key_values)
    made.add_rope_dimension_count(hidden // heads)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_vocab_size(vocabulary)
    if experts:
        made.add_expert_count(experts)
        made.add_expert_used_count(used)
    made.add_tokenizer_model("llama")
    made.add_token_list(words)
    made.add_token_scores([0.0] * vocabulary)
    made.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocabulary - SPECIAL))
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    random, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0

    def linear(name: str, *shape: int) -> None:
        values = (random.standard_normal(shape) * 0.02).astype(np.float32)
        made.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        made.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))

    made.add_tensor("token_embd.weight", (random.standard_normal((vocabulary, hidden)) * 0.02).astype(np.float16))
    for layer in range(layers):
        block = f"blk.{layer}."
        norm(f"{block}attn_norm")
        norm(f"{block}ffn_norm")
        for part, width in (("q", hidden), ("k", hidden * key_values // heads), ("v", hidden * key_values // heads)):
            linear(f"{block}attn_{part}", width, hidden)
        linear(f"{block}attn_output", hidden, hidden)
        shape = (experts,) if experts else ()
        suffix = "_exps" if experts else ""
        if experts:
            router = (random.standard_normal((experts, hidden)) * 0.02).astype(np.float32)
            made.add_tensor(f"{block}ffn_gate_inp.weight", router)
        linear(f"{block}ffn_gate{suffix}", *shape, inner, hidden)
        linear(f"{block}ffn_up{suffix}", *shape, inner, hidden)
        linear(f"{block}ffn_down{suffix}", *shape, hidden, inner)
    norm("output_norm")
    if head:
        linear("output", vocabulary, hidden)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path
