"""Models that a command is given."""

import json

import pytest
from tests.cli.harness import invoke


def write_config(folder, layers):
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers}
    sizes = {"hidden_size": 4096, "intermediate_size": 8192, "num_attention_heads": 32, "vocab_size": 1000}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    return str(folder / "config.json")


def test_models_of_one_class_are_told_apart(tmp_path):
    pytest.importorskip("transformers")
    small, large = write_config(tmp_path / "small", 2), write_config(tmp_path / "large", 4)
    command = ["diff", "cpu-only", "prefer-accelerator", "--hosts", "2x24gb", "--format", "json"]
    result = invoke(*command, "--models", small, "--models", large)
    assert [one["model"] for one in json.loads(result.stdout)["differences"]] == [small, large], result
    alone = invoke(*command, "--models", small)
    assert [one["model"] for one in json.loads(alone.stdout)["differences"]] == ["LlamaForCausalLM"]
