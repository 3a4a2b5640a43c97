"""What the real code holds while it runs is within the figure for activations: one model of each kind, two layers deep.

`tox run -e dry-run` tries every model of the catalogue in full.
"""

from __future__ import annotations

import json

import pytest

from devpolicy import ModelTree, Policy, plan

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer")
KINDS = (
    "mixtral-8x7b",  # decoding gathers the experts of a token
    "qwen3-30b-a3b",  # more of an expert's inputs and outputs than of its own rows
    "deepseek-v2-lite",  # weights of experts are added up in float32; keys and values of different widths
    "gemma-2-9b",  # eager attention
    "gpt-oss-20b",  # the same with sinks, and experts with biases
    "t5-small",  # relative positions are a matrix
    "gpt2",  # an activation function of several steps
    "phi-4-mini",  # gate and up are one tensor
    "command-r-35b",  # positions are rotated in float32
)


@pytest.mark.parametrize("name", KINDS)
def test_activations_hold_what_the_code_holds(name: str) -> None:
    pytest.importorskip("transformers")
    config = json.loads(ModelTree.load(name).config)
    config |= {key: 2 for key in LAYERS if key in config}
    config.pop("layer_types", None)
    tree = ModelTree.from_config(config)
    policy = Policy.parse('prefer = "cuda:0"\n[workload]\ncontext = 1024\n[memory.cuda]\nheadroom = "0 B"\n')
    found = plan(policy, tree, "4x80gb").dry_run(tree, "4x80gb")
    use = found.devices["cuda:0"]
    held = use.run_peak - use.loaded - use.ledger.kv_cache
    assert (found.runs, [str(error) for error in found.errors]) == (True, [])
    assert 0 < held <= use.ledger.activations
