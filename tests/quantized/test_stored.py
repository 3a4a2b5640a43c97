"""Checkpoints that store other modules packed than Transformers looks for: experts one by one, and names of before.

Engines load them. Transformers 5 keeps the experts of a layer as one weight, which no quantiser of linear modules
converts, and compares a list of modules with the paths that these have now.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.quantized.rules import need_these_rules

need_these_rules()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy.errors import ModelError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402
from tests.quantized.found import EXPERTS  # noqa: E402

CARD = Host([Accelerator("cuda", memory="24 GiB", capability=(8, 9))] * 2, memory="64 GiB")
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
NF4: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
MOE = {**EXPERTS, "num_hidden_layers": 2, "num_experts": 4}
TEXT = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
}  # fmt: skip
VISION = {"depth": 2, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 256}


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("moe")
    config = transformers.Qwen3MoeConfig(**{key: value for key, value in MOE.items() if key != "torch_dtype"})
    transformers.Qwen3MoeForCausalLM(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose checkpoints have other names for its experts: `block_sparse_moe.experts.0.w1`."""
    folder: Path = tmp_path_factory.mktemp("mixtral")
    config = transformers.MixtralConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, num_local_experts=4,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees, whose checkpoints name `visual` what is `model.visual` since Transformers 5."""
    folder: Path = tmp_path_factory.mktemp("seeing")
    config = transformers.Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False)
    transformers.Qwen2_5_VLForConditionalGeneration(config).half().save_pretrained(folder)
    return folder


def packed(source: Path, folder: Path, said: dict[str, Any], left: str = "visual") -> Path:
    """Write a checkpoint with all projections packed, but for those whose names hold `left`."""
    tensors: dict[str, Any] = {}
    for key, weight in load_file(source / "model.safetensors").items():
        if ("proj" not in key and ".experts." not in key) or weight.dim() < 2 or left in key:
            tensors[key] = weight
            continue
        (rows, columns), module = weight.shape, key.removesuffix(".weight")
        if said is NF4:
            tensors[key] = torch.zeros(rows * columns // 2, 1, dtype=torch.uint8)
            tensors[f"{key}.absmax"] = torch.zeros(rows * columns // 64)
            tensors[f"{key}.quant_map"] = torch.zeros(16)
            continue
        shape = (columns // 8, rows) if said["quant_method"] == "gptq" else (columns, rows // 8)
        tensors[f"{module}.qweight"] = torch.zeros(shape, dtype=torch.int32)
        tensors[f"{module}.qzeros"] = torch.zeros(columns // 128, rows // 8, dtype=torch.int32)
        tensors[f"{module}.scales"] = torch.zeros(columns // 128, rows, dtype=torch.float16)
        if said["quant_method"] == "gptq":
            tensors[f"{module}.g_idx"] = torch.zeros(columns, dtype=torch.int32)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}), "utf-8")
    return folder


def size(folder: Path) -> int:
    """The bytes that are stored, without the order of inputs, which vLLM drops, and with the frequencies."""
    tensors = load_file(folder / "model.safetensors").items()
    return sum(prod(one.shape) * one.element_size() for key, one in tensors if not key.endswith("g_idx")) + 2 * 4 * 32


def planned(model: Any, target: str, policy: str = "") -> Plan:
    return plan(Policy.parse(f'prefer = "cuda"\n{policy}\n[workload]\ncontext = 8\n'), model, CARD, target=target)


def weights(made: Plan) -> int:
    return sum(budget.weights for budget in made.ledger.values())


@pytest.mark.parametrize("said", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_experts_stored_one_by_one(said: dict[str, Any], moe: Path, mixtral: Path, tmp_path: Path) -> None:
    folder = packed(moe if said is GPTQ else mixtral, tmp_path, said)
    for model in (folder, folder / "config.json"):
        assert weights(planned(model, "vllm")) == size(folder)
        with pytest.raises(Unsatisfiable, match="cannot load them: it stores its experts quantised one by one") as no:
            planned(model, "hf")
        assert no.value.code == "DP417"
        assert "vllm" in str(no.value.diagnostics[0].help)


@pytest.mark.parametrize("said", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_experts_stored_in_full(said: dict[str, Any], moe: Path, tmp_path: Path) -> None:
    folder = packed(moe, tmp_path, said, "experts")
    made = planned(folder, "hf")
    assert [warning.code for warning in made.warnings] == ["DP418"]
    # For each matrix of gptqmodel's kernel the shifts; the order of inputs is left out of `size`.
    beside = 8 * (64 + 4 * 256) if said is GPTQ else 0
    assert weights(made) == size(folder) + beside
    with pytest.raises(Unsatisfiable, match=r"no plan is made of them .*experts` as it is"):
        planned(folder, "vllm")


def test_experts_of_bitsandbytes(moe: Path, tmp_path: Path) -> None:
    full, one_by_one = packed(moe, tmp_path / "full", NF4, "experts"), packed(moe, tmp_path / "packed", NF4)
    with pytest.raises(Unsatisfiable, match="experts quantised one by one") as no:
        planned(one_by_one, "hf")
    assert '`loading.quantization = "nf4"`' in str(no.value.diagnostics[0].help)
    on_load = planned(moe, "hf", 'loading.quantization = "nf4"')
    for made in (planned(full, "hf"), planned(full / "config.json", "hf"), on_load):
        (warning,) = made.warnings
        assert (warning.code, "held in full" in warning.message) == ("DP418", True)
        assert abs(weights(made) - size(full)) < 1024  # each packed weight has a table of its own


@pytest.mark.parametrize(("said", "key"), [(AWQ, "modules_to_not_convert"), (NF4, "llm_int8_skip_modules")])
def test_a_list_with_names_of_before(said: dict[str, Any], key: str, seeing: Path, tmp_path: Path) -> None:
    folder = packed(seeing, tmp_path, said)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for names in (["lm_head", "visual"], ["lm_head", "visual", "model.visual"]):
        config["quantization_config"][key] = names
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        if said is AWQ:
            assert weights(planned(folder, "vllm")) == weights(planned(folder / "config.json", "vllm"))
        if "model.visual" in names:
            for model in (folder, folder / "config.json"):
                assert planned(model, "hf").loading.scheme in ("awq", "nf4")
            continue
        with pytest.raises(Unsatisfiable, match=r"it stores `model\.visual\.blocks\.0\.attn\.qkv` as it is") as no:
            planned(folder, "hf")
        assert key in str(no.value.diagnostics[0].help)
        with pytest.raises(Unsatisfiable, match=f"`{key}` names `visual`.*either way"):
            planned(folder / "config.json", "hf")


def test_fp8_leaves_what_a_list_of_before_names(seeing: Path) -> None:
    """Of this scheme alone Transformers turns the names into those of today."""
    from transformers.quantizers.auto import AutoHfQuantizer

    config = json.loads((seeing / "config.json").read_text("utf-8"))
    said = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["visual", "lm_head"]}
    read = transformers.AutoConfig.from_pretrained(seeing)
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(read)
    paths = [path for path, module in model.named_modules() if type(module) is torch.nn.Linear]
    given = transformers.FineGrainedFP8Config(
        weight_block_size=(128, 128), modules_to_not_convert=["visual", "lm_head"]
    )
    AutoHfQuantizer.from_config(given)._process_model_before_weight_loading(model)
    wanted = {path for path in paths if type(model.get_submodule(path)) is not torch.nn.Linear}
    tree = ModelTree.from_config({**config, "quantization_config": said})
    made = plan(Policy.parse('prefer = "cuda"'), tree, CARD, target="hf")
    packed_bytes = sum(
        one.elements for path in wanted for one in tree.modules[tree.index[path]].tensors if one.name == "weight"
    )
    assert wanted
    assert tree.bytes_as() - weights(made) == pytest.approx(packed_bytes, rel=0.01)


FP8: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["visual"]}
COMPRESSED: dict[str, dict[str, Any]] = {
    name: {"quant_method": "compressed-tensors", "format": stored, "quantization_status": "compressed",
           "config_groups": {"a": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head", "re:.*mlp.gate$"]}
    for name, stored, weights in (
        ("int4", "pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}),
        ("fp8", "float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    )
}  # fmt: skip


def scaled(source: Path, folder: Path, said: dict[str, Any]) -> Path:
    """Write a checkpoint whose projections have scales beside them: fp8 of either layout, or packed int4."""
    tensors: dict[str, Any] = {}
    for key, weight in load_file(source / "model.safetensors").items():
        tensors[key] = weight
        if ("proj" not in key and "lm_head" not in key) or weight.dim() < 2 or "visual" in key:
            continue
        (rows, columns), module = weight.shape, key.removesuffix(".weight")
        if said is FP8:  # its list leaves no head
            tensors[key] = weight.to(torch.float8_e4m3fn)
            tensors[f"{key}_scale_inv"] = torch.ones(-(-rows // 128), -(-columns // 128))
        elif "lm_head" in key:
            continue
        elif said["format"] == "float-quantized":
            tensors[key] = weight.to(torch.float8_e4m3fn)
            tensors[f"{key}_scale"] = torch.ones(rows, 1, dtype=weight.dtype)
        else:
            del tensors[key]
            tensors[f"{module}.weight_packed"] = torch.zeros(rows, columns // 8, dtype=torch.int32)
            tensors[f"{module}.weight_scale"] = torch.ones(rows, columns // 128, dtype=weight.dtype)
            tensors[f"{module}.weight_shape"] = torch.tensor([rows, columns])
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}), "utf-8")
    return folder


def test_modelopt_beside_a_configuration(moe: Path, tmp_path: Path) -> None:
    """A `config.json` that is named says what its folder says, which has a file for it."""
    scaled(moe, tmp_path, COMPRESSED["fp8"])
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    said = {"quant_algo": "FP8", "exclude_modules": ["lm_head", "*mlp.gate*"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": said}), "utf-8")
    made = [planned(model, "vllm") for model in (tmp_path, tmp_path / "config.json")]
    assert [one.loading.scheme for one in made] == ["modelopt-fp8"] * 2
    assert weights(made[0]) == weights(made[1])
    assert not any(one.warnings for one in made)
    for model in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(Unsatisfiable, match="no plan is made of them for `hf`"):
            planned(model, "hf")


def needs(library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} makes it: `tox run -e quantized`")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fp8", "bitsandbytes", "compressed-int4", "compressed-fp8"])
def test_it_holds_what_is_planned(name: str, moe: Path, seeing: Path, tmp_path: Path) -> None:
    if name == "bitsandbytes":
        needs("bitsandbytes")
        given = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        transformers.AutoModelForCausalLM.from_pretrained(moe, quantization_config=given).save_pretrained(tmp_path)
    elif name == "fp8":
        scaled(seeing, tmp_path, FP8)
    else:
        needs("compressed_tensors")
        scaled(moe, tmp_path, COMPRESSED[name.removeprefix("compressed-")])
    cls = transformers.Qwen2_5_VLForConditionalGeneration if name == "fp8" else transformers.Qwen3MoeForCausalLM
    made = planned(tmp_path, "hf")
    assert weights(made) == weights(planned(tmp_path / "config.json", "hf"))
    with simulate_host(CARD, depth="tensors"), torch.no_grad():
        model, found = cls.from_pretrained(tmp_path, **made.to_hf_kwargs(), output_loading_info=True)
        assert not any(found.values())
        assert made.verify(model) == []
        for device, budget in made.ledger.items():
            assert abs(simulated_device(device).allocated - budget.weights) <= 1024  # one table for all models


def test_a_model_file_keeps_what_is_stored_as_it_is(moe: Path, tmp_path: Path) -> None:
    tree = ModelTree.from_checkpoint(packed(moe, tmp_path, AWQ, "experts"))
    text = tree.to_toml()
    assert ModelTree.parse(text) == tree
    assert "model.layers.1.mlp.experts" in text
    with pytest.raises(ModelError, match="a list of paths"):
        ModelTree.parse(text.replace('plain = ["', 'plain = [1, "'))
