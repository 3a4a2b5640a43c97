"""Real GGUF files, written by llama.cpp's own package: every matrix in blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HIDDEN, INNER, WORDS, LAYERS, HEADS, KV_HEADS = 64, 128, 96, 3, 4, 2


def write(path: Path, architecture: str, *, tied: bool = False, dtype: str = "Q8_0") -> Path:
    """Write a tiny decoder of an architecture of llama.cpp: llama, qwen2, qwen3 or lfm2."""
    import gguf
    import numpy

    kind = gguf.GGMLQuantizationType[dtype]
    random = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    # The layers of lfm2 that convolve have no heads.
    writer.add_head_count_kv([KV_HEADS, 0, KV_HEADS] if architecture == "lfm2" else KV_HEADS)
    writer.add_key_length(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_shortconv_l_cache(3)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(WORDS)])

    def add(name: str, *shape: int, plain: bool = False) -> None:
        values: Any = random.standard_normal(shape).astype(numpy.float32) / 10
        if plain or len(shape) == 1 or dtype == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    narrow = HIDDEN * KV_HEADS // HEADS
    add("token_embd.weight", WORDS, HIDDEN)
    add("token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight", HIDDEN)
    if not tied:
        add("output.weight", WORDS, HIDDEN)
    for number in range(LAYERS):
        block = f"blk.{number}"
        add(f"{block}.attn_norm.weight", HIDDEN)
        add(f"{block}.ffn_norm.weight", HIDDEN)
        if architecture == "lfm2" and number == 1:
            add(f"{block}.shortconv.conv.weight", HIDDEN, 3, plain=True)
            add(f"{block}.shortconv.in_proj.weight", 3 * HIDDEN, HIDDEN)
            add(f"{block}.shortconv.out_proj.weight", HIDDEN, HIDDEN)
        else:
            for name, rows in (("q", HIDDEN), ("k", narrow), ("v", narrow)):
                add(f"{block}.attn_{name}.weight", rows, HIDDEN)
                if architecture == "qwen2":
                    add(f"{block}.attn_{name}.bias", rows)
            add(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
            if architecture in ("qwen3", "lfm2"):
                add(f"{block}.attn_q_norm.weight", HIDDEN // HEADS)
                add(f"{block}.attn_k_norm.weight", HIDDEN // HEADS)
        add(f"{block}.ffn_gate.weight", INNER, HIDDEN)
        add(f"{block}.ffn_up.weight", INNER, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
