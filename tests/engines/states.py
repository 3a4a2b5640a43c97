"""What is counted of recurrent layers, beside the shapes of vLLM's own functions and what SGLang's code allots.

Owns a configuration of each family, at its published proportions, and which of vLLM's functions it calls with which of
its sizes. `tests.engines.parsers` downloads the sources and asks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devpolicy import ModelTree

_LAYERS = {"num_hidden_layers": 4, "vocab_size": 128}
_MIXED = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
_QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "layer_types": _MIXED}
_DELTA = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
# Each family: its configuration, vLLM's function, and the sizes that it is called with.
FAMILIES: dict[str, tuple[dict[str, Any], str, dict[str, str | int]]] = {
    "qwen3_next": (
        _QWEN,
        "gated_delta_net_state_shape",
        dict(zip(("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim"), _DELTA, strict=True))
        | {"conv_kernel_size": "linear_conv_kernel_dim"},
    ),
    "falcon_h1": (
        {},
        "mamba2_state_shape",
        {
            "intermediate_size": "mamba_d_ssm",
            "n_groups": "mamba_n_groups",
            "num_heads": "mamba_n_heads",
            "head_dim": "mamba_d_head",
            "state_size": "mamba_d_state",
            "conv_kernel": "mamba_d_conv",
        },
    ),
    "nemotron_h": (
        {"layers_block_type": ["mamba", "attention", "mamba", "moe"]},
        "mamba2_state_shape",
        {
            "n_groups": "n_groups",
            "num_heads": "mamba_num_heads",
            "head_dim": "mamba_head_dim",
            "state_size": "ssm_state_size",
            "conv_kernel": "conv_kernel",
        },
    ),
    "granitemoehybrid": (
        {"layer_types": ["mamba", "mamba", "mamba", "attention"], "num_local_experts": 4},
        "mamba2_state_shape",
        {
            "n_groups": "mamba_n_groups",
            "num_heads": "mamba_n_heads",
            "head_dim": "mamba_d_head",
            "state_size": "mamba_d_state",
            "conv_kernel": "mamba_d_conv",
        },
    ),
    "zamba2": (
        {"layers_block_type": ["mamba", "mamba", "hybrid", "mamba"]},
        "mamba2_state_shape",
        {
            "n_groups": "mamba_ngroups",
            "num_heads": "n_mamba_heads",
            "head_dim": "mamba_headdim",
            "state_size": "mamba_d_state",
            "conv_kernel": "mamba_d_conv",
        },
    ),
    "jamba": (
        {"num_experts": 2, "attn_layer_period": 4, "attn_layer_offset": 3},
        "mamba1_state_shape",
        {"state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv"},
    ),
    "lfm2": (
        {"layer_types": ["conv", "conv", "conv", "full_attention"]},
        "short_conv_state_shape",
        {"intermediate_size": "hidden_size", "conv_kernel": "conv_L_cache"},
    ),
    "minimax": (
        {"num_local_experts": 2},
        "linear_attention_state_shape",
        {"num_heads": "num_attention_heads"},
    ),
}
_CHILD = """
from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator as shapes
for name, arguments in json.load(sys.stdin):
    print(json.dumps(getattr(shapes, name)(**arguments)))
"""


def _config(family: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    made: PreTrainedConfig = CONFIG_MAPPING[family](**_LAYERS, **FAMILIES[family][0])
    return dict(made.to_dict())


def _arguments(family: str, config: dict[str, Any]) -> dict[str, Any]:
    _, function, names = FAMILIES[family]
    given = {name: config[key] if isinstance(key, str) else key for name, key in names.items()}
    given |= {"tp_size": 1} if function.startswith("linear") else {"tp_world_size": 1}
    if function == "mamba2_state_shape":
        given.setdefault("intermediate_size", given["num_heads"] * given["head_dim"])
    if function == "mamba1_state_shape":
        given["intermediate_size"] = config["mamba_expand"] * config["hidden_size"]
    if function == "linear_attention_state_shape":
        given["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return given


def _counted(config: dict[str, Any]) -> set[int]:
    """Return the scalars that are counted for one layer's state; a set, as all layers are alike."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = config.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    found: dict[str, int] = {}
    for cache in ModelTree.from_module(model).kv_cache:
        if cache.window == 1:
            found[cache.module] = found.get(cache.module, 0) + cache.values
    return set(found.values())


def check_states(folder: Path, before: str) -> Iterator[str]:
    """Yield the families of whose layers less is counted than vLLM's functions say, or far more.

    `before` is what a process begins with that imports them.
    """
    configs = {family: _config(family) for family in FAMILIES}
    asked = [(FAMILIES[family][1], _arguments(family, config)) for family, config in configs.items()]
    done = subprocess.run(
        [sys.executable, "-c", before + _CHILD],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "VLLM_LOGGING_LEVEL": "ERROR"},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    if len(lines) < len(asked):
        yield f"vLLM's shapes: {done.stderr[-2000:]}"
    for (family, config), line in zip(configs.items(), lines, strict=False):
        sizes = [1, 1]
        for at, shape in enumerate(json.loads(line)):
            for side in shape:
                sizes[at] *= side
        theirs = sum(sizes[: len(json.loads(line))])
        ours = _counted(config)
        # Transformers keeps one more input of a convolution.
        if len(ours) != 1 or not theirs <= min(ours) <= theirs * 2:
            yield f"{family}: {theirs} scalars of a layer, and counted are {ours}"


_FACTS = {
    "vllm": {
        "vllm/v1/kv_cache_interface.py": r"2 \+ self\.num_speculative_blocks \+ self\.num_prefill_checkpoint_blocks",
        "vllm/model_executor/models/config.py": r'== "none":\n +cache_config\.mamba_cache_mode = "align"',
        "vllm/model_executor/models/registry.py": r'"BambaForCausalLM": "0.23.0",\n +"MiniMaxForCausalLM": "0.23.0"',
        "vllm/platforms/cuda.py": r"has_device_capability\(80\):\n[^\n]*\n +return \[torch.bfloat16",
        "vllm/platforms/interface.py": r"max\(kernel_block_alignment_size, 128\)",
    },
    "sglang": {
        "sglang/srt/mem_cache/kv_cache_configurator.py": r"MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO = 3\n",
        "sglang/srt/model_executor/model_runner_components/load_model_utils.py": "SGLang only supports sm75 and above",
        "sglang/srt/mem_cache/allocation_sizing.py": r"return 2 if overlap else 1\n",
    },
}
"""Where each engine says how many states a sequence has (three of vLLM's, three and two of SGLang's, and one of all),
which models it no longer runs, and what it does with cards of low compute capability."""


def check_counts(engine: str, folder: Path) -> Iterator[str]:
    """Yield the facts behind our rows that an engine's source does not have."""
    for file, pattern in _FACTS[engine].items():
        if re.search(pattern, (folder / file).read_text(encoding="utf-8")) is None:
            yield f"{file} has no {pattern}"
