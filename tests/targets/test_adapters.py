"""LoRA: the plan counts an adapter, PEFT loads it onto the planned model, and nothing moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")

from devpolicy import Accelerator, DevPolicyError, Host, ModelTree, Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.placement.saved import PlanError  # noqa: E402
from devpolicy.errors import ModelError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 4, "vocab_size": 100, "max_position_embeddings": 64,
}  # fmt: skip
HOST = Host([Accelerator("cuda", memory="4 GiB", capability=(8, 0))] * 2, memory="16 GiB", disk="100 GiB")
IDS = torch.arange(3, 11)[None]
KINDS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "head": {"target_modules": "all-linear", "modules_to_save": ["lm_head"]},
    "table": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora": {"target_modules": ["down_proj"], "use_dora": True},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
}
PLACES = {
    "gpu": "",
    "two": 'split = "balanced"',
    "cpu": '[offload]\n"model.layers.{1..2}" = "cpu"',
    "disk": '[offload]\n"model.layers.{1..2}" = "disk"',
}
# What PEFT asks of Transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lora")
    config = transformers.LlamaConfig(**TINY, attention_bias=True)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "base")
    for kind, keys in KINDS.items():
        adapted(folder / "base", folder / kind, **keys)
    return folder


def adapted(model: Path, folder: Path, **keys: object) -> Path:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    made = peft.get_peft_model(loaded, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **keys))
    for name, parameter in made.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(folder)
    return folder


def policy(place: str, *adapters: Path) -> Policy:
    said = f"loading.adapter = {json.dumps(list(map(str, adapters)))}" if adapters else ""
    return Policy.parse(f'prefer = "cuda"\n{said}\n{PLACES[place]}')


RUNS = [(kind, place) for kind in ("attention", "table") for place in PLACES] + [
    *(("head", "cpu"), ("head", "two"), ("dora", "two"), ("biases", "gpu"))
]


@pytest.mark.parametrize(("kind", "place"), RUNS)
def test_an_adapter_runs_where_it_is_planned(kind, place, base):
    made = plan(policy(place, base / kind), base / "base", HOST)
    with torch.no_grad():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(base / "base")
        expected = peft.PeftModel.from_pretrained(loaded, base / kind)(IDS).logits
    with simulate_host(HOST, depth="tensors"), torch.no_grad():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(base / "base", **made.to_hf_kwargs())
        model = made.load_adapters(loaded).eval()
        gpus = {f"cuda:{number}": simulated_device(f"cuda:{number}").allocated for number in range(2)}
        assert made.verify(model) == []
        assert gpus == {name: made.ledger[name].weights if name in made.ledger else 0 for name in gpus}
        assert torch.equal(model(IDS.to("cuda:0")).logits.cpu(), expected)


def test_several_adapters_are_all_counted_and_loaded(base):
    made = plan(policy("disk", base / "attention", base / "table"), base / "base", HOST)
    with simulate_host(HOST, depth="tensors"):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(base / "base", **made.to_hf_kwargs())
        model = made.load_adapters(loaded)
        assert list(model.peft_config) == ["default", "table"]
        assert made.verify(model) == []


def test_haystack_takes_an_adapter_that_is_merged(base, tmp_path):
    with pytest.raises(Unsatisfiable, match="merge_and_unload") as refused:
        plan(policy("two", base / "attention"), base / "base", HOST, target="haystack")
    assert refused.value.code == "DP416"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base / "base")
    adapted_one = peft.PeftModel.from_pretrained(loaded, base / "attention")
    expected = adapted_one.merge_and_unload().eval()
    expected.save_pretrained(tmp_path)
    made = plan(policy("two"), tmp_path, HOST, target="haystack")
    with simulate_host(HOST, depth="tensors"), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **made.to_hf_kwargs()).eval()
        assert made.verify(model) == []
        assert torch.equal(model(IDS.to("cuda:0")).logits.cpu(), expected(IDS).logits)


def test_weights_that_an_adapter_works_on_are_not_kept_elsewhere(base):
    text = f'prefer = "cuda"\noffload.lm_head = "disk"\nloading.adapter = "{base / "head"}"'
    with pytest.raises(Unsatisfiable, match=r"weights of `lm_head`"):
        plan(Policy.parse(text), base / "base", HOST)
    for kind in ("biases", "dora"):
        with pytest.raises(Unsatisfiable, match="DP416"):
            plan(policy("cpu", base / kind), base / "base", HOST)


def test_a_model_that_peft_moved_is_told(base):
    made = plan(policy("cpu", base / "attention"), base / "base", HOST)
    with simulate_host(HOST, depth="tensors"):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(base / "base", **made.to_hf_kwargs())
        assert any(
            "planned on cpu" in line for line in made.verify(peft.PeftModel.from_pretrained(loaded, base / "attention"))
        )


def test_the_plan_says_which_adapters(base):
    made, plain = plan(policy("gpu", base / "attention"), base / "base", HOST), plan(policy("gpu"), base / "base", HOST)
    assert made.loading.adapters == (str(base / "attention"),)
    assert Plan.from_dict(made.to_dict()) == made
    assert made.digest != plain.digest
    with pytest.raises(PlanError, match="load_adapters"):
        made.to_pipeline_kwargs()
    with pytest.raises(PlanError, match="no adapters"):
        plain.load_adapters(torch.nn.Linear(1, 1))


def changed(folder: Path, tmp_path: Path, **keys: object) -> Path:
    made = tmp_path / "changed"
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps(config | keys))
    return made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda base, tmp: base / "nowhere", "no such folder"),
        (lambda base, tmp: base, "no adapter"),
        (lambda base, tmp: changed(base / "attention", tmp, peft_type="IA3"), "only LoRA"),
        (lambda base, tmp: changed(base / "attention", tmp, target_parameters=["experts"]), "fused experts"),
    ],
)
def test_what_is_no_lora_is_refused(make, said, base, tmp_path):
    with pytest.raises(ModelError, match=said) as refused:
        plan(policy("gpu", make(base, tmp_path)), base / "base", HOST)
    assert refused.value.diagnostics[0].help


def test_pickles_and_other_models_are_refused(base, tmp_path):
    pickled = changed(base / "attention", tmp_path)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match="holds no"):
        plan(policy("gpu", pickled), base / "base", HOST)
    for other in ("bert-base", "llama-3.1-8b"):
        with pytest.raises(ModelError, match=r"does not have|does not fit") as refused:
            plan(policy("gpu", base / "attention"), ModelTree.load(other), HOST)
        assert "it was made for" in refused.value.diagnostics[0].help


def test_a_dry_run_does_not_try_a_plan_with_adapters(base):
    made = plan(policy("gpu", base / "attention"), base / "base", HOST)
    with pytest.raises(DevPolicyError, match="has adapters, and a dry run loads none"):
        made.dry_run(base / "base", HOST)
