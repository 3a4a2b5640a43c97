"""The main job on real checkpoints: a policy is planned, Transformers loads the model with it, and the outputs are
those of the model on the CPU, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import Host, ModelTree, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.placement.saved import PlanError  # noqa: E402

HOST = Host.load("cpu-only")
IDS = list(range(3, 19))

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 256}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128}
T5 = {"d_model": 64, "d_ff": 128, "num_layers": 3, "num_heads": 4, "d_kv": 16, "vocab_size": 256}
T5_TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def _llama(**more: Any) -> Any:
    config = transformers.LlamaConfig(**GROUPED, num_hidden_layers=4, **more)
    return transformers.LlamaForCausalLM(config)


def _mixtral() -> Any:
    config = transformers.MixtralConfig(**GROUPED, num_hidden_layers=3, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def _t5() -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **T5_TOKENS))


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SMALL, num_hidden_layers=3))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "tied-llama": lambda: _llama(tie_word_embeddings=True),
    "mixtral": _mixtral,
    "t5": _t5,
    "bert": _bert,
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk and what its model answers when all of it is on the CPU."""

    name: str
    cls: type
    folder: Path
    answers: tuple[Any, ...]


def _answers(model: Any) -> tuple[Any, ...]:
    ids = torch.tensor([IDS])
    with torch.no_grad():
        if not model.can_generate():
            return (model(ids).last_hidden_state,)
        decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        return model.generate(ids, max_new_tokens=8, do_sample=False), model(ids, **decoder).logits


@pytest.fixture(
    scope="module", params=[(name, shards) for name in MODELS for shards in ("whole", "sharded")], ids="-".join
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    name, shards = request.param
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    folder = tmp_path_factory.mktemp(f"{name}-{shards}")
    model.save_pretrained(folder, max_shard_size="150KB" if shards == "sharded" else "1GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards == "sharded")
    return Saved(name, type(model), folder, _answers(type(model).from_pretrained(folder).eval()))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield


HEAD = 'prefer = ["cuda", "mps", "cpu"]\nties = "follow"\n[offload]\nlm_head = "disk"\n'
POLICIES = {
    "the head on disk": HEAD,
    "one block on disk": """
        prefer = "cpu"
        offload = { "model.layers.1" = "disk", "**.block.1" = "disk", "**.layer.1" = "disk" }
    """,
    "a part of each block on disk": """
        prefer = "cpu"
        rule = [{ class = ["*MLP", "*Experts", "*Intermediate", "T5LayerFF"], offload = "disk" }]
    """,
    "embeddings on disk": """
        prefer = "cpu"
        ties = "follow"
        rule = [{ class = "Embedding", offload = "disk" }]
    """,
    "what does not fit on disk": """
        prefer = "cpu"
        overflow = "disk"
        workload.context = 16
        memory.cpu = { cap = "700 KiB" }
    """,
    "all on one device": 'prefer = "cpu"',
}


# accelerate warns of keys that name tensors; a container's own tensors have no other key.
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
@pytest.mark.parametrize("name", POLICIES)
def test_a_planned_model_answers_as_the_model_on_the_cpu_does(saved: Saved, name: str, tmp_path: Path) -> None:
    policy = Policy.parse(f"{POLICIES[name]}\n[memory.disk]\npath = '{tmp_path}'\n")
    made = plan(policy, saved.folder, HOST)
    model = saved.cls.from_pretrained(saved.folder, **made.to_hf_kwargs()).eval()
    assert made.verify(model) == []
    for expected, answer in zip(saved.answers, _answers(model), strict=True):
        assert torch.equal(expected, answer)


def test_only_what_loading_converts_is_rewritten(saved: Saved, tmp_path: Path) -> None:
    policy = Policy.parse(
        f"prefer = 'cpu'\n[[rule]]\nclass = '*Experts'\noffload = 'disk'\n[memory.disk]\npath = '{tmp_path}'\n"
    )
    made = plan(policy, saved.folder, HOST)
    saved.cls.from_pretrained(saved.folder, **made.to_hf_kwargs())
    assert ("offload_folder" in made.to_hf_kwargs()) == (saved.name == "mixtral")
    written = list(tmp_path.rglob("*.safetensors"))
    assert bool(written) == (saved.name == "mixtral")
    # What is counted is what is written, but for the files' headers.
    sizes = sum(file.stat().st_size for file in written)
    assert made.loading.rewritten <= sizes <= made.loading.rewritten + 1024 * len(written)


def test_fused_experts_on_disk_need_a_folder(tmp_path: Path) -> None:
    _mixtral().save_pretrained(tmp_path)
    with pytest.raises(Unsatisfiable) as refused:
        plan(Policy.parse('prefer = "cpu"\n[offload]\n"model.layers.0" = "disk"\n'), tmp_path, HOST)
    assert refused.value.code == "DP402"
    assert "[memory.disk]" in refused.value.diagnostics[0].help


def test_verify_finds_a_planted_difference(saved: Saved) -> None:
    made = plan(Policy.parse('prefer = "cpu"'), saved.folder, HOST)
    model = saved.cls.from_pretrained(saved.folder, **made.to_hf_kwargs())
    assert made.verify(model) == []
    name, parameter = next((name, one) for name, one in model.named_parameters() if "norm" in name.lower())
    owner = model.get_submodule(name.rpartition(".")[0])
    owner.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(parameter.to("meta")))
    assert made.verify(model) == [f"{name}: planned on cpu, is on meta"]


def test_verify_finds_a_model_that_was_loaded_without_the_plan(saved: Saved) -> None:
    if saved.name == "bert":
        pytest.skip("BertModel has no head")
    made = plan(Policy.parse(HEAD), saved.folder, HOST)
    differences = made.verify(saved.cls.from_pretrained(saved.folder))
    assert any(line.startswith("lm_head.weight: planned on disk, is on cpu") for line in differences)


def test_verify_wants_buffers_where_their_module_runs(tmp_path: Path) -> None:
    import accelerate

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    text = f"prefer = 'cpu'\nmemory.disk.path = '{tmp_path}'\n[offload]\n1 = 'disk'\n"
    made = plan(Policy.parse(text), ModelTree.from_module(model), HOST)
    accelerate.dispatch_model(model, made.to_hf_kwargs()["device_map"], main_device="cpu", offload_dir=str(tmp_path))
    assert made.verify(model) == []
    assert model[1].running_mean.device.type == "cpu"


def test_verify_names_tensors_that_the_plan_does_not_know() -> None:
    tree = ModelTree.from_module(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    made = plan(Policy.parse('prefer = "cpu"'), tree, HOST)
    assert made.verify(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))) == [
        "1.weight: the plan does not place it",
        "1.bias: the plan does not place it",
    ]


def test_verify_names_modules_that_the_model_lacks() -> None:
    tree = ModelTree.from_module(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
    made = plan(Policy.parse('prefer = "cpu"'), tree, HOST)
    assert made.verify(torch.nn.Sequential(torch.nn.Linear(2, 2))) == ["1: the model has no such module"]


def test_the_models_own_tensors_may_be_absent_from_the_plan() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model.register_buffer("scale", torch.ones(2))
    rule = '[[rule]]\nmatch = "1"\nprefer = "cuda:1"\n'
    made = plan(Policy.parse(f'prefer = "cuda:0"\n{rule}'), ModelTree.from_module(model), "2x24gb")
    model.append(torch.nn.Linear(2, 2))
    assert [line for line in made.verify(model) if line.startswith("2.")] == [
        "2.weight: the plan does not place it",
        "2.bias: the plan does not place it",
    ]


def test_verify_takes_a_module_and_nothing_else() -> None:
    made = plan(Policy.parse('prefer = "cpu"'), ModelTree.from_module(torch.nn.Linear(2, 2)), HOST)
    with pytest.raises(PlanError, match=r"not a value of type str"):
        made.verify("llama-3.1-8b")


def test_a_dtype_that_the_policy_asks_for_is_what_is_loaded(saved: Saved) -> None:
    made = plan(Policy.parse('prefer = "cpu"\nworkload.dtype = "bfloat16"'), saved.folder, HOST)
    model = saved.cls.from_pretrained(saved.folder, **made.to_hf_kwargs())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    assert made.ledger["cpu"].weights == held


class TestTiedWeights:
    """`lm_head` and the embedding are one tensor; a rule speaks of one of them."""

    @pytest.fixture
    def tree(self) -> ModelTree:
        return ModelTree.from_module(_llama(tie_word_embeddings=True))

    def test_are_not_parted_and_the_refusal_names_both_and_the_fix(self, tree: ModelTree) -> None:
        with pytest.raises(Unsatisfiable) as refused:
            plan(Policy.parse('prefer = "cpu"\n[offload]\nlm_head = "disk"\n'), tree, HOST)
        assert refused.value.code == "DP401"
        text = str(refused.value)
        assert "`lm_head.weight`" in text
        assert "`model.embed_tokens.weight`" in text
        assert 'ties = "follow"' in text
        assert '"skip"' in text
        assert "3 | lm_head" in text

    @pytest.mark.parametrize(("mode", "place"), [("follow", "disk"), ("skip", "cpu")])
    def test_follow_takes_both_along_and_skip_leaves_both(self, tree: ModelTree, mode: str, place: str) -> None:
        text = f'prefer = "cpu"\nties = "{mode}"\nmemory.disk.path = "x"\n[offload]\nlm_head = "disk"\n'
        made = plan(Policy.parse(text), tree, HOST)
        assert str(made.placements["lm_head"].device) == place
        assert str(made.placements["model.embed_tokens"].device) == place

    def test_may_both_be_sent_away_by_two_rules(self, tree: ModelTree) -> None:
        text = 'prefer = "cpu"\nmemory.disk.path = "x"\n[offload]\nlm_head = "disk"\n"model.embed_tokens" = "disk"\n'
        made = plan(Policy.parse(text), tree, HOST)
        assert str(made.placements["lm_head"].device) == str(made.placements["model.embed_tokens"].device) == "disk"


def test_a_pipeline_takes_the_plan(tmp_path: Path) -> None:
    model = _llama()
    model.save_pretrained(tmp_path)
    made = plan(Policy.parse(HEAD), tmp_path, HOST)
    kwargs = made.to_pipeline_kwargs()
    handed_over = {"dtype": "float32", "model_kwargs": {"attn_implementation": "sdpa"}}
    assert kwargs == {"device_map": {"model": "cpu", "lm_head": "disk"}, **handed_over}
    single = plan(Policy.parse('prefer = "cpu"'), tmp_path, HOST)
    assert single.to_pipeline_kwargs() == {"device": "cpu", **handed_over}
