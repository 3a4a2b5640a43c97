"""What is planned is what is loaded: the ledger's weights are the bytes that real Transformers holds on a simulated
device, whatever the file and its configuration say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.tiny import TINY  # noqa: E402

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.model import structure  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 64}
DEEPSEEK = {
    **TINY, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 8, "first_k_dense_replace": 1,
}  # fmt: skip
BLIP2 = {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "image_size": 32, "patch_size": 8},
    "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "encoder_hidden_size": 32, "vocab_size": 100},
    "text_config": {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "vocab_size": 100, "word_embed_proj_dim": 32},
    "num_query_tokens": 4, "image_token_index": 99,
}  # fmt: skip
GEMMA = {**TINY, "head_dim": 8}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "llama", TINY),
    "gemma2": ("Gemma2ForCausalLM", "gemma2", GEMMA),
    "mixtral": ("MixtralForCausalLM", "mixtral", {**TINY, "num_local_experts": 4}),
    "t5": ("T5ForConditionalGeneration", "t5", T5),
    "deepseek": ("DeepseekV3ForCausalLM", "deepseek_v3", DEEPSEEK),
    "blip2": ("Blip2ForConditionalGeneration", "blip-2", BLIP2),
}
HOST = Host([Accelerator("cuda", memory="4 GiB", capability=(8, 0))] * 2, memory="16 GiB", disk="100 GiB")
# accelerate warns of keys that name tensors; a container's own tensors have no other key.
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield


def saved(folder: Path, name: str, stored: str, named: str | None) -> tuple[type, Path]:
    """Save a tiny model in one dtype under a configuration that names another, or none."""
    architecture, model_type, sizes = MODELS[name]
    cls = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = cls(transformers.AutoConfig.for_model(model_type, **sizes)).to(getattr(torch, stored))
    model.save_pretrained(folder)
    path = folder / "config.json"
    table = {key: value for key, value in json.loads(path.read_text()).items() if key != "dtype"}
    path.write_text(json.dumps(table | ({"dtype": named} if named else {})))
    return cls, folder


def held(made: Plan, cls: type, folder: Path) -> tuple[dict[str, int], Any]:
    """Load a plan and return the bytes that each accelerator holds, and the model."""
    with simulate_host(HOST, depth="tensors"):
        model = cls.from_pretrained(folder, **made.to_hf_kwargs())  # type: ignore[attr-defined]
        assert made.verify(model) == []
        return {name: simulated_device(name).allocated for name in made.ledger if name.startswith("cuda")}, model


def planned(made: Plan) -> dict[str, int]:
    return {name: budget.weights for name, budget in made.ledger.items() if name.startswith("cuda")}


def policy(more: str = "", split: str = "balanced") -> Policy:
    return Policy.parse(f'prefer = "cuda"\nsplit = "{split}"\n{more}\n[workload]\ncontext = 8\n')


@pytest.mark.parametrize("named", [*DTYPES, None])
@pytest.mark.parametrize("stored", DTYPES)
def test_the_configuration_decides_the_dtype_before_the_file(stored: str, named: str | None, tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, "llama", stored, named)
    made = plan(policy(), folder, HOST)
    assert made.to_hf_kwargs()["dtype"] == (named or stored)
    bytes_held, model = held(made, cls, folder)
    assert bytes_held == planned(made)
    assert {str(one.dtype) for one in model.parameters()} == {f"torch.{named or stored}"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_what_stays_in_float32_is_counted_in_float32(name: str, dtype: str, tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, name, dtype, dtype)
    made = plan(policy(), folder, HOST)
    assert held(made, cls, folder)[0] == planned(made)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_what_stays_in_float32_does_so_in_any_dtype(name: str, dtype: str, tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, name, "float32", "float32")
    made = plan(Policy.parse(f'prefer = "cuda"\nworkload = {{ context = 8, dtype = "{dtype}" }}'), folder, HOST)
    assert held(made, cls, folder)[0] == planned(made)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "mixtral", "t5"])
def test_a_template_keeps_in_float32_what_the_model_does(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = saved(tmp_path, name, dtype, dtype)
    built = ModelTree.from_checkpoint(folder)
    monkeypatch.setattr(structure, "has_transformers", lambda: False)
    assert ModelTree.from_checkpoint(folder) == built


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_buffer_that_code_makes_in_a_dtype_of_its_own_keeps_it(dtype: str, tmp_path: Path) -> None:
    sizes = {**TINY, "lru_width": 32, "attention_window_size": 16}
    cls = transformers.RecurrentGemmaForCausalLM
    cls(transformers.RecurrentGemmaConfig(**sizes)).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    made = plan(policy(), tmp_path, HOST)
    bytes_held, model = held(made, cls, tmp_path)
    assert bytes_held == planned(made)
    assert model.model.normalizer.dtype == torch.bfloat16


def test_a_float8_tensor_without_a_quantiser_is_cast(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    cls, folder = saved(tmp_path, "llama", "bfloat16", "bfloat16")
    file = folder / "model.safetensors"
    tensors = {key: one.to(torch.float8_e4m3fn) if "proj" in key else one for key, one in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    made = plan(policy(), folder, HOST)
    assert held(made, cls, folder)[0] == planned(made)


def test_mixed_files_are_loaded_in_one_dtype(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    cls, folder = saved(tmp_path, "llama", "float16", None)
    file = folder / "model.safetensors"
    tensors = {key: one.float() if "norm" in key else one for key, one in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    made = plan(policy(), folder, HOST)
    assert held(made, cls, folder)[0] == planned(made)


def test_a_model_file_keeps_what_stays_in_float32(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, "t5", "float16", "float16")
    tree = ModelTree.from_checkpoint(folder)
    assert ModelTree.parse(tree.to_toml()) == tree
    assert tree.bytes_as("bfloat16") < tree.bytes_as("float16") < tree.bytes_as("float32")


def test_every_part_is_handed_the_attention_that_it_can_run(tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, "blip2", "float32", "float32")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "flash_attention_2"}))
    made = plan(policy(), folder, HOST)
    kwargs, (_, model) = made.to_hf_kwargs(), held(made, cls, folder)
    given = kwargs["attn_implementation"]
    assert (given if isinstance(given, str) else given[""]) == model.config._attn_implementation
    assert "flash" not in str(given)


def test_experts_are_handed_their_implementation(tmp_path: Path) -> None:
    _, mixture = saved(tmp_path / "mixtral", "mixtral", "float32", "float32")
    _, dense = saved(tmp_path / "llama", "llama", "float32", "float32")
    assert plan(policy(), mixture, HOST).to_hf_kwargs()["experts_implementation"] == "grouped_mm"
    assert "experts_implementation" not in plan(policy(), dense, HOST).to_hf_kwargs()


@pytest.mark.parametrize("split", ["never", "balanced"])
@pytest.mark.parametrize("name", MODELS)
def test_no_device_holds_more_while_it_loads_than_the_ledger_has(name: str, split: str, tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, name, "bfloat16", "bfloat16")
    made = plan(policy(split=split), folder, HOST)
    peaks = dict.fromkeys(made.ledger, 0)
    # Transformers loads in threads: not every run of a mixture meets its largest moment.
    for _ in range(3):
        with simulate_host(HOST, depth="tensors"):
            cls.from_pretrained(folder, **made.to_hf_kwargs())  # type: ignore[attr-defined]
            peaks = {device: max(peak, simulated_device(device).peak) for device, peak in peaks.items()}
    for device, budget in made.ledger.items():
        assert budget.weights <= peaks[device] <= budget.load, device
        if split == "never":  # with nothing else going on, it comes to that, but for small buffers that are made later
            assert budget.load - peaks[device] < 4096
    merged = all(budget.load > budget.weights + 1024 for budget in made.ledger.values())
    assert merged == (name in ("mixtral", "deepseek"))


def test_a_mixture_is_placed_so_that_it_loads(tmp_path: Path) -> None:
    sizes = {**TINY, "hidden_size": 256, "intermediate_size": 1024, "num_local_experts": 8, "num_hidden_layers": 2}
    config = transformers.MixtralConfig(**sizes, dtype="float32")
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    roomy = plan(policy(split="never"), tmp_path, HOST).ledger["cuda:0"]
    assert roomy.loading > 0
    room = roomy.held + roomy.loading // 2
    capped = policy(f'[memory.cuda]\nbasis = "total"\nheadroom = "0 GiB"\ncap = "{room} B"', "when-needed")
    with pytest.raises(Unsatisfiable, match="room for loading"):
        plan(capped, tmp_path, Host(HOST.accelerators[:1], memory="16 GiB"))
    made = plan(capped, tmp_path, HOST)
    two = Host([replace(one, free=room) for one in HOST.accelerators], memory="16 GiB")
    assert list(made.ledger) == ["cuda:0", "cuda:1"]
    with simulate_host(two, depth="tensors"):
        model = transformers.MixtralForCausalLM.from_pretrained(tmp_path, **made.to_hf_kwargs())
        assert made.verify(model) == []


def test_verify_finds_another_dtype_than_the_plan_counted(tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, "t5", "float16", "float16")
    made = plan(policy(split="never"), folder, HOST)
    with simulate_host(HOST, depth="tensors"):
        model = cls.from_pretrained(folder, **made.to_hf_kwargs() | {"dtype": "float32"})  # type: ignore[attr-defined]
        assert any("float32" in line and "planned with" in line for line in made.verify(model))


def test_verify_finds_a_tie_that_was_lost(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    made = plan(policy(), tmp_path, HOST)
    with simulate_host(HOST, depth="tensors"):
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, **made.to_hf_kwargs())
        assert made.verify(model) == []
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        assert [line for line in made.verify(model) if "lm_head" in line] == [
            "lm_head: planned with 0 bytes, holds 12800 (float32)"
        ]


def test_a_quantised_checkpoint_says_its_dequantised_size(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, "llama", "bfloat16", "bfloat16")
    full = ModelTree.from_checkpoint(folder).bytes_as()
    path = folder / "config.json"
    table = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    path.write_text(json.dumps(table))
    made = plan(Policy.parse('prefer = "cpu"'), path, HOST, target="torch")
    assert [(one.code, one.severity) for one in made.warnings] == [("DP418", "warning")]
    assert f"{full / 1024:.0f} KiB"[:2] in made.warnings[0].notes[0]
    assert made.ledger["cpu"].weights == full


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_stays_in_float32_is_kept_in_ram(dtype: str, tmp_path: Path) -> None:
    cls, folder = saved(tmp_path, "t5", dtype, dtype)
    words = {"input_ids": torch.arange(1, 9)[None], "decoder_input_ids": torch.arange(1, 5)[None]}
    with torch.no_grad():
        expected = cls.from_pretrained(folder, dtype=dtype).eval()(**words).logits  # type: ignore[attr-defined]
    for place in ("cpu", "disk"):
        rules = f'prefer = "cuda"\noffload = {{ "encoder.block.*" = "{place}" }}\nworkload.context = 8\n'
        made = plan(Policy.parse(rules), folder, HOST)
        parted = (place, dtype) == ("disk", "float16")
        assert [one.code for one in made.warnings] == ["DP413"] * parted
        assert {"cpu", "disk"} & made.ledger.keys() == ({"cpu", "disk"} if parted else {place})
        with simulate_host(HOST, depth="tensors"), torch.no_grad():
            model = cls.from_pretrained(folder, **made.to_hf_kwargs()).eval()  # type: ignore[attr-defined]
            assert made.verify(model) == []
            assert simulated_device("cuda:0").allocated == made.ledger["cuda:0"].weights
            assert torch.equal(model(**words).logits.cpu(), expected)


def test_what_stays_in_float32_is_never_kept_on_disk(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, "t5", "float16", "float16")
    mac = Host([Accelerator("mps", memory="16 GiB")], memory="16 GiB", disk="100 GiB")
    for kind, host, more in (("mps", mac, ""), ("cuda", HOST, 'avoid = "cpu"\n')):
        rules = f'prefer = "{kind}"\n{more}offload = {{ "encoder.block.*" = "disk" }}\nworkload.context = 8\n'
        with pytest.raises(Unsatisfiable) as refused:
            plan(Policy.parse(rules), folder, host)
        assert refused.value.code == "DP413"
        assert "float32" in str(refused.value.diagnostics[0].help)
