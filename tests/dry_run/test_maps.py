"""Maps that ran on no number of GPUs run now: at published sizes, over three of them.

A dry run tells; each of these failed at its first forward before what meets was placed together.
"""

from __future__ import annotations

from typing import Any

import pytest

from devpolicy import Accelerator, Host, ModelTree
from tests.dry_run.plans import balanced

RIG = Host([Accelerator("cuda", memory="40 GiB", name="A", capability=(8, 0))] * 3, memory="64 GiB", name="rig")
MARIAN = {
    "model_type": "marian", "vocab_size": 58101, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
    "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
    "max_position_embeddings": 512, "pad_token_id": 58100, "decoder_start_token_id": 58100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        ("MarianMTModel", MARIAN),
        ("BlipForConditionalGeneration", {"model_type": "blip"}),
        ("Gemma4ForCausalLM", {"model_type": "gemma4_text"}),
        ("BlenderbotSmallForConditionalGeneration", {"model_type": "blenderbot-small"}),
    ],
)
def test_a_model_whose_outputs_meet_runs_over_three_gpus(cls: str, config: dict[str, Any]) -> None:
    tree = ModelTree.from_config(config, architecture=cls)
    made = balanced(tree, RIG)
    assert sum(device.startswith("cuda") for device in made.ledger) > 1
    assert made.dry_run(tree, RIG).errors == ()
