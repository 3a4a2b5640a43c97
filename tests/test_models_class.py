"""Which class a checkpoint is a model of: its tensors decide, and what has no place in it is named."""

import json

import pytest

from devpolicy import Accelerator, Host, ModelTree, Policy, plan
from devpolicy.errors import ModelError, Unsatisfiable

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402

from devpolicy._core.model import structure  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
HOST = Host([Accelerator("cuda", memory="4 GiB", capability=(8, 0))] * 2, memory="16 GiB", disk="100 GiB")
BALANCED = Policy.parse('prefer = "cuda"\nsplit = "balanced"\nworkload.context = 8')


@pytest.fixture
def llama(tmp_path):
    transformers.utils.logging.disable_progress_bar()
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(tmp_path)
    return tmp_path


def configured(folder, **changes):
    path = folder / "config.json"
    table = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))


def restored(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def loads(made, cls, folder):
    """Load a plan with a class, and compare what is held with what is planned."""
    with simulate_host(HOST, depth="tensors"):
        model = cls.from_pretrained(folder, **made.to_hf_kwargs())
        assert made.verify(model) == []
        cuda = [name for name in made.ledger if name.startswith("cuda")]
        assert {n: simulated_device(n).allocated for n in cuda} == {n: made.ledger[n].weights for n in cuda}


@pytest.mark.parametrize("named", [None, ["MyLlamaForCausalLM"], ["BertModel"]])
def test_the_tensors_decide_without_a_class_of_theirs(llama, named):
    configured(llama, architectures=named)
    made = plan(BALANCED, llama, HOST)
    assert "lm_head" in made.to_hf_kwargs()["device_map"]
    loads(made, transformers.AutoModelForCausalLM, llama)
    assert [one.code for one in made.warnings] == ["DP415"] * bool(named)


def test_tensors_of_no_known_class_are_named_and_no_map_is_made(llama):
    configured(llama, architectures=["MyLlamaForCausalLM"])
    restored(llama, lambda tensors: {**tensors, "second_head.weight": torch.zeros(3, 32)})
    tree = ModelTree.load(llama)
    assert "`second_head.weight`" in tree.incomplete_reason
    with pytest.raises(Unsatisfiable) as refused:
        plan(BALANCED, llama, HOST)
    assert refused.value.code == "DP407"


def test_another_shape_than_the_class_has_is_no_fit(llama):
    restored(llama, lambda tensors: {**tensors, "model.norm.weight": torch.zeros(31)})
    assert "`model.norm.weight`: stored with another shape" in ModelTree.load(llama).incomplete_reason


def test_a_tensor_that_is_not_loaded_is_named_in_the_plan(llama):
    restored(llama, lambda tensors: {**tensors, "extra.weight": torch.zeros(3)})
    made = plan(BALANCED, llama, HOST)
    assert [(one.code, one.message) for one in made.warnings] == [
        ("DP415", "`extra.weight`: stored without a place in the model, so not loaded")
    ]
    loads(made, transformers.LlamaForCausalLM, llama)


def test_a_tensor_that_is_not_stored_is_named_in_the_plan(llama):
    restored(llama, lambda tensors: {key: one for key, one in tensors.items() if key != "lm_head.weight"})
    made = plan(BALANCED, llama, HOST)
    assert [one.message for one in made.warnings] == ["`lm_head.weight`: not stored, so made anew"]


@pytest.mark.parametrize(
    ("architecture", "cls"),
    [
        ("AutoModelForSequenceClassification", "LlamaForSequenceClassification"),
        ("LlamaForSequenceClassification", "LlamaForSequenceClassification"),
        ("AutoModel", "LlamaModel"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
    ],
)
def test_a_plan_is_made_for_the_class_that_is_asked_for(llama, architecture, cls):
    made = plan(BALANCED, llama, HOST, architecture=architecture)
    loads(made, getattr(transformers, architecture), llama)
    assert ModelTree.load(llama, architecture=architecture).modules[0].class_name == cls


def test_a_class_that_does_not_exist_is_refused(llama):
    with pytest.raises((ModelError, Unsatisfiable)) as refused:
        plan(BALANCED, llama, HOST, architecture="LlamaForNothing")
    assert "LlamaForNothing" in str(refused.value)


@pytest.mark.parametrize("model", [lambda: torch.nn.Linear(2, 2), lambda: "gpt2"])
def test_a_class_is_not_chosen_for_what_has_one(model):
    with pytest.raises(ModelError, match="architecture"):
        plan(BALANCED, model(), HOST, architecture="AutoModel")


def test_a_template_decides_by_the_tensors_too(llama, monkeypatch):
    expected = ModelTree.load(llama)
    configured(llama, architectures=None)
    monkeypatch.setattr(structure, "has_transformers", lambda: False)
    assert ModelTree.load(llama) == expected


def test_a_known_family_is_read_without_transformers(llama, monkeypatch):
    monkeypatch.setattr(structure, "built_tree", lambda *_: pytest.fail("Transformers was asked"))
    assert ModelTree.load(llama).incomplete_reason is None


def test_a_number_that_json_cannot_hold_is_read(tmp_path):
    config = transformers.Mamba2Config(
        hidden_size=32, num_heads=8, head_dim=8, expand=2, state_size=8, num_hidden_layers=2, vocab_size=100, n_groups=1
    )
    transformers.Mamba2ForCausalLM(config).save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert ModelTree.load(tmp_path).incomplete_reason is None
    assert ModelTree.from_config(json.loads((tmp_path / "config.json").read_text())).incomplete_reason is None


def test_an_infinite_size_is_refused(tmp_path):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": {"__float__": "Infinity"}}
    with pytest.raises(ModelError) as refused:
        ModelTree.from_config(config)
    assert refused.value.code == "DP104"


FOLDERS = {
    "adapter": ({"adapter_config.json": '{"base_model_name_or_path": "org/base"}'}, "an adapter of `org/base`"),
    "diffusers": ({"model_index.json": '{"_class_name": "X", "unet": ["a", "b"]}'}, "a diffusers pipeline"),
    "sentences": ({"modules.json": "[]"}, "a sentence-transformers model"),
    "spacy": ({"config.cfg": "[nlp]", "meta.json": "{}"}, "a spaCy pipeline"),
    "timm": ({"config.json": '{"architecture": "resnet50", "pretrained_cfg": {}}'}, "a model of timm"),
    "unet": ({"config.json": '{"_class_name": "UNet2DConditionModel"}'}, "a part of a diffusers pipeline"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_another_library_says_what_it_is(kind, tmp_path):
    files, what = FOLDERS[kind]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError) as refused:
        ModelTree.load(tmp_path)
    assert what in str(refused.value)
    assert refused.value.code == "DP109"
    assert refused.value.diagnostics[0].help


def test_files_of_a_variant_are_read(llama):
    plain = ModelTree.load(llama)
    (llama / "model.safetensors").rename(llama / "model.fp16.safetensors")
    (llama / "model.bf16.safetensors").write_bytes((llama / "model.fp16.safetensors").read_bytes())
    first = ModelTree.load(llama)
    assert (first.loading.variant, first.modules) == ("bf16", plain.modules)
    host = Host(memory="8 GiB")
    assert plan(Policy.parse('prefer = "cpu"'), first, host).to_hf_kwargs()["variant"] == "bf16"
    asked = plan(Policy.parse('prefer = "cpu"\nloading.variant = "fp16"'), llama, host)
    assert asked.to_hf_kwargs()["variant"] == "fp16"
    with pytest.raises(ModelError, match="no files of the variant `fp8`") as refused:
        plan(Policy.parse('prefer = "cpu"\nloading.variant = "fp8"'), llama, host)
    assert "`bf16`, `fp16`" in refused.value.diagnostics[0].help


def test_a_policy_names_the_class(llama):
    text = 'prefer = "cpu"\nloading.architecture = "AutoModelForSequenceClassification"'
    made = plan(Policy.parse(text), llama, Host(memory="8 GiB"))
    assert made.loading.architecture == "LlamaForSequenceClassification"
    assert "score" in made.placements


def test_beams_are_those_of_the_generation_settings(llama):
    assert ModelTree.load(llama).beams == 1
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "num_return_sequences": 3}))
    assert ModelTree.load(llama).beams == 1, "the file beside it counts"
    (llama / "generation_config.json").unlink()
    assert ModelTree.load(llama).beams == 3
    (llama / "generation_config.json").write_text('{"num_beams": 4, "num_return_sequences": 2}')
    assert ModelTree.load(llama).beams == 4
