"""The configuration of a tiny Llama, and a host of two GPUs with more room than it needs."""

from __future__ import annotations

from devpolicy import Accelerator, Host

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
HOST = Host([Accelerator("cuda", memory="4 GiB", capability=(8, 0))] * 2, memory="16 GiB", disk="100 GiB")
