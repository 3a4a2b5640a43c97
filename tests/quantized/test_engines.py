"""Quantised checkpoints for vLLM and SGLang: the bytes that they hold, what they need, and what they divide.

The oracle for a stored checkpoint is what is stored, with what the engine drops, spreads or adds; for a bare
configuration it is the formula of the format. `tests/engines/schemes.py` holds the conditions to the engines' sources.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from tests.quantized.rules import need_these_rules
from tests.quantized.test_recognition import LLAMA_70B

need_these_rules()

CARDS = {"t4": (16, (7, 5)), "v100": (32, (7, 0)), "a100": (80, (8, 0)), "4090": (24, (8, 9)), "h100": (80, (9, 0)),
         "b200": (180, (10, 0))}  # fmt: skip
ENGINES = ("vllm", "sglang")


def host(card: str, count: int = 8) -> Host:
    memory, capability = CARDS[card]
    return Host([Accelerator("cuda", memory=f"{memory} GiB", capability=capability)] * count, memory="512 GiB")


def planned(model: Any, card: str, engine: str, policy: str = "", count: int = 8) -> Plan:
    return plan(Policy.parse(f'prefer = "cuda"\n{policy}'), model, host(card, count), target=engine)


def weights(made: Plan) -> int:
    return sum(budget.weights for budget in made.ledger.values())


# What is stored.

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "F8_E4M3": 1, "U8": 1, "I8": 1}
Held = Callable[[str, tuple[int, ...], int, str, str], int]
"""The bytes that an engine holds of a stored tensor: its name, shape, bytes, the engine and the card."""


def _gptq(name: str, shape: tuple[int, ...], size: int, engine: str, _: str) -> int:
    if name.endswith("g_idx"):  # vLLM drops it; SGLang may keep it twice, and has a work space for each matrix
        return 2 * size + 1024 if engine == "sglang" else 0
    return size


def _awq(name: str, shape: tuple[int, ...], size: int, engine: str, card: str) -> int:
    if name.endswith("qzeros") and engine == "vllm" and card == "h100":
        return 4 * size  # Machete: sixteen bits each, in place of four
    return size + (1024 if name.endswith("qweight") and engine == "sglang" else 0)


def _fp8(name: str, shape: tuple[int, ...], size: int, engine: str, card: str) -> int:
    if not name.endswith("weight_scale_inv"):
        return size
    if card == "b200":
        return max(size, 128 * shape[0] * 4 * -(-shape[1] // 4))
    spread = card in ("t4", "a100") or (card == "4090" and engine == "vllm")
    return 2 * 128 * prod(shape) if spread else size


def _as_stored(name: str, shape: tuple[int, ...], size: int, engine: str, _: str) -> int:
    return size + (1024 if name.endswith("weight_packed") and engine == "sglang" else 0)


def _compressed_fp8(name: str, shape: tuple[int, ...], size: int, *_: str) -> int:
    return 4 * prod(shape) + 8 if name.endswith("weight_scale") else size


STORED: dict[str, Held] = {
    "gptq": _gptq, "awq": _awq, "fp8": _fp8, "compressed-int4": _as_stored, "compressed-fp8": _compressed_fp8,
}  # fmt: skip


def stored(folder: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: (tuple(entry["shape"]), prod(entry["shape"]) * SIZES[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("name", STORED)
def test_stored_is_held(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On each card, with the checkpoint and with its bare configuration."""
    pytest.importorskip("torch")
    if name.startswith("compressed") and find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors makes it: `tox run -e quantized`")
    from tests.quantized.checkpoints import make

    folder = make(name, tmp_path_factory.getbasetemp())
    rotary = 2 * 4 * 32  # the frequencies, which are computed
    for engine in ENGINES:
        for card in ("t4", "a100", "4090", "h100", "b200"):
            if CARDS[card][1] < (8, 0) and (engine == "sglang" or name not in ("gptq", "awq")):
                continue
            wanted = sum(STORED[name](key, *one, engine, card) for key, one in stored(folder).items()) + rotary
            for model in (folder, folder / "config.json"):
                assert weights(planned(model, card, engine)) == wanted, (engine, card)


# Bare configurations of a Llama of 70B, of which four layers do.

HIDDEN, INTER, KEYS = 8192, 28672, 1024
MATRICES = [(HIDDEN, HIDDEN), (KEYS, HIDDEN), (KEYS, HIDDEN), (HIDDEN, HIDDEN), (INTER, HIDDEN), (INTER, HIDDEN),
            (HIDDEN, INTER)]  # fmt: skip
"""Outputs and inputs of the matrices of a layer."""
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
FP8: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def compressed(bits: int, kind: str, strategy: str, group: int | None, stored_as: str, inputs: int = 0) -> Any:
    said = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group, "symmetric": True}
    of_inputs = {"num_bits": inputs, "type": kind, "strategy": "token", "dynamic": True} if inputs else None
    one = {"targets": ["Linear"], "weights": said, "input_activations": of_inputs}
    groups = {"group_0": one}
    method = {"quant_method": "compressed-tensors", "quantization_status": "compressed"}
    return {**method, "format": stored_as, "config_groups": groups, "ignore": ["lm_head"]}


W4A16 = compressed(4, "int", "group", 128, "pack-quantized")
BARE: dict[str, tuple[dict[str, Any], Callable[[int, int], int]]] = {
    "gptq": (GPTQ, lambda rows, columns: rows * columns // 2 + rows * columns // 128 * 5 // 2),
    "gptq-8bit": ({**GPTQ, "bits": 8, "group_size": -1}, lambda rows, columns: rows * columns + 3 * rows),
    "awq": (AWQ, lambda rows, columns: rows * columns // 2 + rows * columns // 128 * 5 // 2),
    "w4a16": (W4A16, lambda rows, columns: rows * columns // 2 + rows * columns // 64 + 16),
    "w8a16": (
        compressed(8, "int", "channel", None, "pack-quantized"),
        lambda rows, columns: rows * columns + 2 * rows + 16,
    ),
    "w8a8": (
        compressed(8, "int", "channel", None, "int-quantized", 8),
        lambda rows, columns: rows * columns + 8 * rows + 8,
    ),
    "fp8-dynamic": (
        compressed(8, "float", "channel", None, "float-quantized", 8),
        lambda rows, columns: rows * columns + 4 * rows + 8,
    ),
    "nvfp4": (
        compressed(4, "float", "tensor_group", 16, "nvfp4-pack-quantized", 4),
        lambda rows, columns: rows * columns // 2 + rows * columns // 16 + 16,
    ),
    "modelopt-fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head", "*router*"]},
        lambda rows, columns: rows * columns + 4 * rows + 8,
    ),
    "modelopt-nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]},
        lambda rows, columns: rows * columns // 2 + rows * columns // 16 + 16,
    ),
}
FULL = 2 * (2 * 128256 * HIDDEN + HIDDEN) + 4 * 2 * 2 * HIDDEN + 2 * 4 * 64
"""Embedding, head, norms, and the frequencies."""


def written(folder: Path, quantization: dict[str, Any], **more: Any) -> Path:
    path = folder / "config.json"
    table = {**LLAMA_70B, "num_hidden_layers": 4, "quantization_config": quantization, **more}
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def read(path: Path) -> ModelTree:
    return ModelTree.from_config(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelTree]:
    folder = tmp_path_factory.mktemp("bare")
    return cache(lambda name: read(written(folder, BARE[name][0])))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BARE)
def test_bare_configuration(name: str, engine: str, trees: Callable[[str], ModelTree]) -> None:
    tree, bytes_of = trees(name), BARE[name][1]
    wanted = FULL + 4 * sum(bytes_of(*one) for one in MATRICES)
    made = planned(tree, "4090", engine)
    if engine == "vllm":
        assert weights(made) == wanted
    else:  # the work space, and for GPTQ the order of inputs
        assert wanted <= weights(made) <= wanted * 1.004
    assert weights(planned(tree, "4090", engine, "split = { tensor = 4 }")) >= wanted - 4 * 1024
    assert made.loading.quantization is None  # the engine reads the configuration itself


LEAST = {
    "gptq": ("t4", "a100"), "awq": ("t4", "t4"), "w4a16": ("t4", "a100"), "w8a8": ("t4", "a100"),
    "fp8-dynamic": ("t4", "a100"), "nvfp4": ("t4", "a100"), "modelopt-fp8": ("a100", "4090"),
    "modelopt-nvfp4": ("t4", "a100"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAST)
def test_least_card(name: str, trees: Callable[[str], ModelTree]) -> None:
    order = ("v100", "t4", "a100", "4090")
    for engine, least in zip(ENGINES, LEAST[name], strict=True):
        planned(trees(name), least, engine)
        below = order[order.index(least) - 1]
        with pytest.raises(Unsatisfiable, match="needs compute capability") as refused:
            planned(trees(name), below, engine)
        assert refused.value.code == "DP417"
        assert any("as stored" in note for note in refused.value.diagnostics[0].notes)


REFUSED = {
    "not symmetric": (GPTQ | {"sym": False}, ENGINES, "symmetric GPTQ"),
    "3 bits": (GPTQ | {"bits": 3}, ENGINES, "of 3 bits"),
    "ordered": (GPTQ | {"desc_act": True}, ("vllm",), "desc_act"),
    "groups of 256": (GPTQ | {"group_size": 256}, ENGINES, "no plan is made of them .*groups have 256"),
    "head": (GPTQ | {"lm_head": True}, ENGINES, "no plan is made of them .*lm_head"),
    "no zeros": (AWQ | {"zero_point": False}, ENGINES, "no plan is made of them .*zeros"),
    "blocks of 64": (FP8 | {"weight_block_size": [64, 64]}, ENGINES, "no plan is made of them .*blocks"),
    "static": (FP8 | {"activation_scheme": "static"}, ENGINES, "dynamic scales"),
    "two kinds": (
        {**W4A16, "config_groups": {**W4A16["config_groups"], "b": compressed(8, "int", "channel", None, "x")[
            "config_groups"]["group_0"]}},
        ENGINES, "no plan is made of them .*several kinds",
    ),
    "sparse": ({**W4A16, "sparsity_config": {"format": "sparse-24-bitmask"}}, ENGINES, "sparsity"),
    "a format": (compressed(6, "int", "group", 128, "pack-quantized"), ENGINES, "no plan is made .*of 6 bits"),
    "bitsandbytes": ({"load_in_4bit": True}, (*ENGINES, "ktransformers"), "no plan is made of them for"),
    "unknown": ({"quant_method": "quark"}, ENGINES, "no plan is made of them for .*nothing here knows `quark`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    quantization, engines, reason = REFUSED[name]
    for engine in engines:
        with pytest.raises(Unsatisfiable, match=reason) as refused:
            planned(written(tmp_path, quantization), "a100", engine)
        assert refused.value.code == "DP417"
        assert refused.value.diagnostics[0].help


def test_ordered_groups_are_sglangs(tmp_path: Path) -> None:
    planned(written(tmp_path, GPTQ | {"desc_act": True}), "a100", "sglang")
    planned(written(tmp_path, GPTQ | {"desc_act": True, "group_size": -1}), "a100", "vllm")


def test_capability_that_is_not_known(tmp_path: Path) -> None:
    path, unknown = written(tmp_path, GPTQ), Host([Accelerator("cuda", memory="80 GiB")], memory="64 GiB")
    with pytest.raises(Unsatisfiable, match="is not known") as refused:
        plan(Policy.parse('prefer = "cuda"'), path, unknown, target="vllm")
    assert "capability = [8, 0]" in str(refused.value.diagnostics[0].help)


def test_made_on_load_is_not_planned(tmp_path: Path) -> None:
    for scheme in ("fp8", "nf4"):
        with pytest.raises(Unsatisfiable, match=f"no plan is made of `{scheme}` that `vllm` makes"):
            planned("llama-3.1-8b", "a100", "vllm", f'loading.quantization = "{scheme}"')


def test_over_nodes() -> None:
    from devpolicy.targets.ray import vllm_over_nodes

    large = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128}
    config = {**LLAMA_70B, **large, "quantization_config": GPTQ}
    told = vllm_over_nodes("prefer-accelerator", ModelTree.from_config(config), "8x8-h100")
    assert told["arguments"][2:4] == ["--pipeline-parallel-size", "3"]
    with pytest.raises(Unsatisfiable, match="DP308") as refused:
        other = ModelTree.from_config({**config, "quantization_config": {"load_in_4bit": True}})
        vllm_over_nodes("prefer-accelerator", other, "8x8-h100")
    assert "no plan is made of them for `vllm`" in refused.value.diagnostics[0].notes[0]


def test_bfloat16_below_ampere(tmp_path: Path) -> None:
    path = written(tmp_path, AWQ, dtype="bfloat16")
    for engine in ENGINES:
        with pytest.raises(Unsatisfiable, match=r"8\.0") as refused:
            planned(path, "t4", engine)
        assert "float16" in str(refused.value.diagnostics[0].help)
        planned(path, "t4", engine, 'workload.dtype = "float16"')
        with pytest.raises(Unsatisfiable, match="not in `float32`"):
            planned(path, "a100", engine, 'workload.dtype = "float32"')


def test_groups_and_blocks_are_divided_whole(tmp_path: Path) -> None:
    """28,160 inputs are 220 groups of 128, so that eight devices have no whole number of them."""
    for quantization, wrong in ((GPTQ, "down_proj"), (AWQ, "down_proj"), (W4A16, "down_proj"), (FP8, "gate_proj")):
        path = written(tmp_path, quantization, intermediate_size=28160)
        for engine in ENGINES:
            planned(path, "a100", engine, "split = { tensor = 4 }")
            with pytest.raises(Unsatisfiable, match=wrong):
                planned(path, "a100", engine, "split = { tensor = 8 }")
            planned(path, "a100", engine)


MOE = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 4,
    "head_dim": 128, "vocab_size": 1024, "num_experts": 128, "num_experts_per_tok": 8, "dtype": "bfloat16",
}  # fmt: skip
EXPERTS = 2 * 128 * 3 * 768 * 2048
"""The weights of the experts of both layers."""


@pytest.mark.parametrize("quantization", [GPTQ, AWQ, W4A16], ids=["gptq", "awq", "w4a16"])
def test_experts_are_packed(quantization: dict[str, Any], tmp_path: Path) -> None:
    for engine in ENGINES:
        path = written(tmp_path, quantization, **MOE, head=None)
        assert EXPERTS // 2 < weights(planned(path, "a100", engine)) < EXPERTS * 0.75


def test_mxfp4_is_padded_to_tiles(tmp_path: Path) -> None:
    """2,880 inputs become 3,072 and 5,760 outputs 5,888; a share of a group is padded by itself."""
    gpt_oss = {
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_size": 2880, "intermediate_size": 2880,
        "num_hidden_layers": 1, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 1024,
        "num_local_experts": 32, "num_experts_per_tok": 4, "dtype": "bfloat16",
        "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(gpt_oss), encoding="utf-8")
    for engine in ENGINES:
        for size, down in ((1, 2944), (4, 4 * 768)):
            split = "" if size == 1 else f"split = {{ tensor = {size} }}"
            made = planned(path, "h100", engine, split)
            up = 5888 if size == 1 else 4 * 1536
            experts = 32 * 3072 * (up + down) * 17 // 32
            rest = weights(made) - experts
            assert 0 < rest < 120 << 20
        with pytest.raises(Unsatisfiable, match=r"capability 8\.0"):
            planned(path, "t4", engine)
    with pytest.raises(Unsatisfiable, match="not in `float16`"):
        planned(path, "h100", "vllm", 'workload.dtype = "float16"')


def test_70b_on_cards(tmp_path: Path) -> None:
    """How many cards a 70B takes in each scheme: what the fleet form and the flags are made of."""
    wanted = {"gptq": {"a100": 1, "4090": 2, "t4": 3}, "awq": {"a100": 1, "4090": 2, "t4": 3},
              "w4a16": {"a100": 1, "4090": 2, "t4": 3}, "fp8-dynamic": {"a100": 1, "4090": 4}}  # fmt: skip
    for name, cards in wanted.items():
        tree = read(written(tmp_path, BARE[name][0], num_hidden_layers=80))
        for card, count in cards.items():
            made = planned(tree, card, "vllm")
            assert sum(key.startswith("cuda") for key in made.ledger) == count, (name, card)
