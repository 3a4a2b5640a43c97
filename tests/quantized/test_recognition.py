"""What a checkpoint's files say of its quantisation is understood, or refused with the reason; nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Accelerator, Host, ModelTree, Policy, Unsatisfiable, plan
from devpolicy._core.loading.quantization import Facts, Weight
from devpolicy._core.loading.recognition import as_config, quantization_of
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.loading.skips import Skips
from devpolicy._core.loading.support import TRANSFORMERS
from devpolicy._core.model import config as reader
from devpolicy._core.model.form import Held, NotHeld
from devpolicy._core.model.quantize import quantize
from tests.quantized.page import PAGE, with_table
from tests.quantized.rules import need_these_rules

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 640,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
LLAMA_70B = {
    **LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256, "dtype": "float16",
}  # fmt: skip
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
CONFIGS: dict[str, dict[str, Any]] = {
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "mxfp8": {"quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
    "compressed-fp8": {"quant_method": "compressed-tensors", "config_groups": {"a": GROUP}, "ignore": ["lm_head"]},
    "compressed": {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}}},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "torchao-int8": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
    "torchao-float8": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}},
    "quanto-int4": {"quant_method": "quanto", "weights": "int4"},
    "fbgemm-fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    "nvfp4": {"quant_method": "nvfp4"},
    "hqq": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    "modelopt-fp8": {"quant_method": "modelopt", "quant_algo": "FP8"},
}
UNKNOWN: dict[str, Any] = {
    "a method": {"quant_method": "aqlm"},
    "a list": [4],
    "a number": 4,
    "a text": "nf4",
    "false": False,
    "an empty table": {},
    "no method": {"bits": 4},
    "a method that is a table": {"quant_method": {"a": 1}},
    "bits": {"quant_method": "gptq", "bits": 5},
    "bits that are text": {"quant_method": "gptq", "bits": "4"},
    "bits that are true": {"quant_method": "gptq", "bits": True},
    "a group of nothing": {"quant_method": "gptq", "bits": 4, "group_size": 0},
    "a block of nothing": {"quant_method": "fp8", "weight_block_size": [0, 128]},
    "a block of one": {"quant_method": "fp8", "weight_block_size": [128]},
    "a slow pattern": {"quant_method": "fp8", "modules_to_not_convert": ["(a*)*b"]},
    "a broken pattern": {"quant_method": "fp8", "modules_to_not_convert": ["("]},
    "a name that is a number": {"quant_method": "fp8", "modules_to_not_convert": [1]},
    "a list that is a text": {"quant_method": "fp8", "modules_to_not_convert": "lm_head"},
    "per-module settings": {"quant_method": "gptq", "bits": 4, "dynamic": {"-:lm_head": {}}},
    "another kind of torchao": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}},
    },
    "both of bitsandbytes' flags off": {"quant_method": "bitsandbytes"},
}
CARD = Host([Accelerator("cuda", memory="80 GiB", capability=(8, 9))] * 2, memory="64 GiB")
ANYWHERE = Policy.parse('prefer = ["cuda", "cpu"]\n[workload]\ncontext = 8\n')


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "has_transformers", lambda: False)


def tree(said: Any, config: dict[str, Any] = LLAMA) -> ModelTree:
    return ModelTree.from_config({**config, "quantization_config": said})


@pytest.mark.parametrize("name", CONFIGS)
def test_each_scheme_is_known_by_its_configuration(name: str) -> None:
    found = quantization_of({"quantization_config": CONFIGS[name]})
    assert found is not None
    assert (found.scheme, found.problem) == (name, "")
    assert quantization_of({"quantization_config": as_config(found)}) == found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_text_part_is_asked_where_the_top_says_nothing(name: str) -> None:
    found = quantization_of({"text_config": {"quantization_config": CONFIGS[name]}})
    assert found == quantization_of({"quantization_config": CONFIGS[name]})


def test_a_part_that_no_library_asks_is_a_problem() -> None:
    found = quantization_of({"vision_config": {"quantization_config": CONFIGS["nf4"]}})
    assert found is not None
    assert "vision_config" in found.problem


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_knows_is_refused_with_both_figures(name: str) -> None:
    with pytest.raises(Unsatisfiable) as refused:
        plan(ANYWHERE, tree(UNKNOWN[name]), CARD)
    (finding,) = refused.value.diagnostics
    assert finding.code == "DP417"
    assert "dequantised" in finding.notes[0]
    assert "needs" in str(finding.help)


@pytest.mark.usefixtures("without_libraries")
def test_what_mlx_stores_is_not_counted_at_full_size() -> None:
    tree = ModelTree.from_config({**LLAMA, "quantization": {"group_size": 64, "bits": 4}})
    with pytest.raises(Unsatisfiable, match="MLX") as refused:
        plan(ANYWHERE, tree, CARD)
    assert "dequantised" in refused.value.diagnostics[0].notes[0]


def test_a_setting_that_must_be_absent_is_said_so() -> None:
    found = quantization_of({"quantization_config": UNKNOWN["per-module settings"]})
    assert found is not None
    assert found.problem == "no plan is made where `dynamic` is given"


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("name", ["fbgemm-fp8", "nvfp4", "hqq", "modelopt-fp8"])
def test_what_no_plan_is_made_of_is_refused_with_both_figures(name: str) -> None:
    tree = ModelTree.from_config(LLAMA | {"quantization_config": CONFIGS[name]})
    with pytest.raises(Unsatisfiable) as refused:
        plan(Policy.parse('prefer = "cuda"'), tree, Host.load("h100"))
    assert refused.value.code == "DP417"
    (note,) = refused.value.diagnostics[0].notes
    assert "as stored" in note
    assert "4.9 MiB dequantised to bfloat16" in note


def test_fbgemm_takes_what_the_library_s_own_module_takes() -> None:
    torch = pytest.importorskip("torch")
    fbgemm = pytest.importorskip("transformers.integrations.fbgemm_fp8")
    with torch.device("meta"):
        module = fbgemm.FbgemmFp8Linear(640, 256, bias=False)
    held = sum(one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers()))
    assert SCHEMES["fbgemm-fp8"].bytes(Weight(256, 640, 2, "cuda"), {}) == held


def test_a_70b_in_gptq_takes_what_is_published() -> None:
    made = tree(CONFIGS["gptq"], LLAMA_70B)
    held = quantize(made, None, Facts("cuda", (8, 0)), TRANSFORMERS)
    assert isinstance(held, Held)
    assert abs(held.tree.bytes_as() / 39.8e9 - 1) < 0.01
    assert held.tree.parameters == made.parameters > 70e9
    assert {"cuda:0"} == set(plan(ANYWHERE, made, CARD).ledger)


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("kind", ["cuda", "cpu", "xpu", "mps"])
@pytest.mark.parametrize("name", CONFIGS)
def test_no_scheme_is_counted_at_full_size_without_a_word(name: str, kind: str) -> None:
    made = tree(CONFIGS[name])
    found = quantize(made, None, Facts(kind, (8, 9)), TRANSFORMERS)
    if isinstance(found, NotHeld):
        assert "as stored" in found.notes[0] or "dequantised" in found.notes[0]
    elif found.dequantized:
        assert found.tree.bytes_as() == made.bytes_as()
        assert found.arguments and found.arguments["dequantize"]
    else:
        assert found.tree.bytes_as() < 0.65 * made.bytes_as()
    assert ModelTree.parse(made.to_toml()) == made


@pytest.mark.usefixtures("without_libraries")
def test_a_given_list_replaces_the_defaults_but_in_awq() -> None:
    def size(said: dict[str, Any]) -> int:
        found = quantize(tree(said), None, Facts("cuda", (8, 9)), TRANSFORMERS)
        assert isinstance(found, Held)
        return found.tree.bytes_as()

    head = 1024 * 256 * 99 // 100  # in a byte for each parameter, with its scales
    for name, key in (("nf4", "llm_int8_skip_modules"), ("fp8", "modules_to_not_convert")):
        assert size(CONFIGS[name]) - size(CONFIGS[name] | {key: []}) > head
        assert size(CONFIGS[name]) == size(CONFIGS[name] | {key: ["lm_head"]})
    assert size(CONFIGS["awq"]) == size(CONFIGS["awq"] | {"modules_to_not_convert": []})
    assert size(CONFIGS["awq"]) < size(CONFIGS["awq"] | {"modules_to_not_convert": ["q_proj"]})


def test_modelopt_is_known_by_its_own_file(tmp_path: Path) -> None:
    found = quantization_of({}, {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}})
    assert found is not None
    assert (found.method, found.scheme) == ("modelopt", "modelopt-nvfp4")


@pytest.mark.parametrize(
    "name", ["a.weight_scale", "a.qweight", "a.weight.absmax", "a.SCB", "mlp.experts.gate_up_proj_blocks"]
)
def test_names_alone_give_a_quantised_checkpoint_away(name: str) -> None:
    found = quantization_of({}, None, ["a.weight", name])
    assert found is not None
    assert name in found.problem
    assert quantization_of({}, None, ["a.weight", "a.bias"]) is None


PATHS = st.lists(st.sampled_from(["model", "layers", "1", "11", "mlp", "gate", "gate_proj", "lm_head"]), min_size=1)


@given(PATHS.map(".".join), st.lists(PATHS.map(".".join) | st.sampled_from(["model.layers.*.mlp", "gate", "1"])))
def test_a_list_leaves_what_transformers_leaves(path: str, names: list[str]) -> None:
    need_these_rules()
    utils = pytest.importorskip("transformers.quantizers.quantizers_utils")
    assert Skips(names).leaves(path) is not utils.should_convert_module(path, names)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({part for row in SCHEMES.values() for key in row.settings for part in key.split(".")} | {"quant_method"})


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    """Return anything, or a real configuration with some of its values replaced by anything."""
    if draw(st.booleans()):
        return draw(JSON)
    said = json.loads(json.dumps(draw(st.sampled_from(list(CONFIGS.values())))))
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        said[key] = draw(JSON)
    return said


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(hostile())
def test_a_hostile_configuration_is_a_plan_or_a_finding(said: Any) -> None:
    found = quantization_of({"quantization_config": said})
    if said is None:
        assert found is None
        return
    assert found is not None
    assert bool(found.scheme) != bool(found.problem)
    made = BASE.with_quantization(found)
    for facts in (Facts("cpu"), Facts("cuda", (8, 9))):
        held = quantize(made, None, facts, TRANSFORMERS)
        assert isinstance(held, NotHeld) or held.tree.parameters == made.parameters
    assert ModelTree.parse(made.to_toml()) == made


class _Base:
    """The Llama, read once."""

    def with_quantization(self, found: Any) -> ModelTree:
        from dataclasses import replace

        from devpolicy._core.model.families import family_tree

        made = family_tree(LLAMA)
        assert made is not None
        return replace(made, quantization=found)


BASE = _Base()


def test_the_page_has_the_rows_of_today() -> None:
    assert PAGE.read_text("utf-8") == with_table(PAGE.read_text("utf-8")), "python -m tests.quantized.page"
