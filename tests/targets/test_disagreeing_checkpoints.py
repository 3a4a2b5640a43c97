"""Checkpoints whose files disagree: what is planned is what is loaded all the same, or is refused with a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.tiny import HOST, TINY  # noqa: E402

from devpolicy import Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYOUTS = {
    "one": 'split = "never"',
    "two": 'split = "balanced"',
    "cpu": 'split = "never"\noffload = { "model.layers.1" = "cpu" }',
    "disk": 'split = "never"\noffload = { "model.layers.1" = "disk" }\nmemory.disk.path = "offload"',
}
# A model of which the CPU keeps a part has no name for that in its messages.
pytestmark = pytest.mark.filterwarnings("ignore")


def saved(folder: Path, change: Any = None, **config: Any) -> Path:
    """Save a tiny Llama, whose tensors `change` was given before they are written."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, **config)).save_pretrained(folder)
    if change is not None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def policy(layout: str, more: str = "") -> Policy:
    return Policy.parse(f'prefer = "cuda"\n{LAYOUTS[layout]}\n{more}\n[workload]\ncontext = 8\n')


def loaded(folder: Path, made: Plan, cls: Any = transformers.AutoModelForCausalLM) -> Any:
    """Load by a plan, look at each device while it loads and after, and return the logits and the model."""
    words = torch.arange(3, 11)[None]
    with simulate_host(HOST, depth="tensors"), torch.no_grad():
        model = cls.from_pretrained(folder, **made.to_hf_kwargs()).eval()
        for device, budget in made.ledger.items():
            if device.startswith("cuda"):
                assert simulated_device(device).allocated == budget.weights, device
                assert simulated_device(device).peak <= budget.load, device
        assert made.verify(model) == []
        return model(words.to(next(model.parameters()).device))[0].cpu(), model


def head_beside(tensors: dict[str, Any]) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()


def other_head(tensors: dict[str, Any]) -> None:
    tensors[HEAD] = tensors[EMBEDDING] + 1


def head_alone(tensors: dict[str, Any]) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", [head_beside, other_head, head_alone])
def test_tied_tensors_are_loaded_as_they_are_stored(change: Any, layout: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, change, tie_word_embeddings=True)
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.arange(3, 11)[None]).logits
    made = plan(policy(layout), folder, HOST)
    logits, model = loaded(folder, made)
    assert torch.equal(logits, expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (change is not other_head)


def test_pickles_hold_each_name_of_a_tie(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, tie_word_embeddings=True))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    loaded(tmp_path, plan(policy("two"), tmp_path, HOST))


def test_tensors_that_are_stored_apart_are_not_parted(tmp_path: Path) -> None:
    folder = saved(tmp_path, other_head, tie_word_embeddings=True)
    text = 'prefer = "cuda"\noffload = { lm_head = "cpu" }\nworkload.context = 8\n'
    with pytest.raises(Unsatisfiable, match="stored apart, so loading compares them") as refused:
        plan(Policy.parse(text), folder, HOST)
    assert refused.value.code == "DP401"
    loaded(folder, plan(Policy.parse(f'{text}ties = "skip"'), folder, HOST))


def test_what_is_not_stored_is_not_kept_on_disk(tmp_path: Path) -> None:
    folder = saved(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(Unsatisfiable) as refused:
        plan(policy("disk"), folder, HOST)
    assert refused.value.code == "DP415"
    for layout in ("one", "two", "cpu"):
        loaded(folder, plan(policy(layout), folder, HOST))


@pytest.mark.parametrize("asked", ["", 'loading.attention = "eager"'])
def test_no_key_of_a_configuration_decides_the_attention(asked: str, tmp_path: Path) -> None:
    """An auto class reads `_attn_implementation` after its arguments: Phi-4 multimodal's configuration has it."""
    folder = saved(tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_attn_implementation": "flash_attention_2"}))
    made = plan(policy("two", asked), folder, HOST)
    _, model = loaded(folder, Plan.from_dict(made.to_dict()))
    assert model.config._attn_implementation == ("eager" if asked else "sdpa")
    assert plan(policy("two"), file, HOST).to_hf_kwargs() == plan(policy("two"), folder, HOST).to_hf_kwargs()


@pytest.mark.parametrize("name", ["offloaded", "quantized"])
def test_a_cache_that_is_not_the_one_counted_is_told(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    file = folder / "generation_config.json"
    for said, codes in ((name, ["DP416"]), ("static", []), (7, [])):
        file.write_text(json.dumps({"cache_implementation": said}))
        assert [one.code for one in plan(policy("one"), folder, HOST).warnings] == codes


@pytest.mark.parametrize("target", ["hf", "haystack"])
def test_a_dtype_of_the_cache_is_not_dropped_silently(target: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    for dtype, codes in (("float16", ["DP416"]), ("float32", [])):  # the model's is float32
        text = f'prefer = "cuda"\nworkload = {{ context = 8, kv_dtype = "{dtype}" }}'
        assert [one.code for one in plan(Policy.parse(text), folder, HOST, target=target).warnings] == codes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cls", ["CLIPTextModel", "SiglipTextModel"])
def test_a_class_of_a_part_is_loaded_from_the_whole(cls: str, layout: str, tmp_path: Path) -> None:
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**part, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 5}
    family = cls.partition("Text")[0]
    whole = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config={**part, "image_size": 32, "patch_size": 8}
    )
    torch.manual_seed(0)
    getattr(transformers, f"{family}Model")(whole).save_pretrained(tmp_path)
    rules = 'prefer = "cuda"\n' + LAYOUTS[layout].replace("model.layers", "encoder.layers")
    made = plan(Policy.parse(f"{rules}\n[workload]\ncontext = 8\n"), tmp_path, HOST, architecture=cls)
    assert any("without a place in the model" in one.message for one in made.warnings)
    found = getattr(transformers, cls)
    with torch.no_grad():
        expected = found.from_pretrained(tmp_path)(torch.arange(3, 11)[None])[0]
    answer, _ = loaded(tmp_path, made, found)
    assert torch.equal(answer, expected)
